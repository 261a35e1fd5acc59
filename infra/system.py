"""System: MinIO, Prefect server, worker, deployments, watcher and reports on this machine: python -m infra.system {up,down,status}.

Everything listens on loopback, asks for a password that is made here, and is stopped by its process id. What was started, and
the variables that make it this shell's system, stay in data/system/ until `down`; objects and runs stay for the next `up`.
"""

import argparse
import json
import os
import secrets
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from infra.credentials import write_private
from infra.results import vacuum_environment
from infra.settings import ROOT, settings

FOLDER = ROOT / "data" / "system"
POOL = "clerkflow"
ARRIVALS_OFFSET = 190  # of the watcher's port from MinIO's
REPORTS_OFFSET = 191  # of the port of reports from MinIO's
WORKER_OFFSET = 80  # of the port where the worker says that it is well from Prefect's
WARM = ("flows.serve", "tasks.validation")  # what the worker imports once for all runs
HEALTHY_SECONDS = 180.0  # a first start migrates a database
SETTLING_SECONDS = 3.0  # a process without an address that runs so long has started
STOPPING_SECONDS = 30.0
LOG_BYTES = 20 * 2**20  # of a part's log; when it is started again, a longer one is put aside in place of the last such one


@dataclass(frozen=True, slots=True)
class Started:
    """A process that is part of the system; its start time tells it from another one with the same id."""

    name: str
    pid: int
    started: float
    health: str = ""  # an address that answers while it is well

    @property
    def address(self) -> str:
        """Where people find it."""
        return self.health.rpartition("/api/")[0] or self.health.rpartition("/minio/")[0] or self.health

    @property
    def state(self) -> str:
        """Its process id, or what is wrong with it."""
        if not self.process:
            return "gone"
        return "not well" if self.health and not answers(self.health) else str(self.pid)

    @property
    def process(self) -> psutil.Process | None:
        """The process, when it still runs."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.started) < 1 and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None


class System:
    """The processes of one folder."""

    def __init__(self, folder: Path, minio_port: int, prefect_port: int) -> None:
        self.folder, self.minio_port, self.prefect_port = folder, minio_port, prefect_port

    @property
    def api(self) -> str:
        """Address of Prefect's API."""
        return f"http://127.0.0.1:{self.prefect_port}/api"

    def up(self) -> list[Started]:
        """Start what does not run yet; what needs another part, when that is well.

        Raises:
            RuntimeError: a process ended or did not get well in time; the message ends with its own words.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        python = [sys.executable, "-m"]
        store = [*python, "infra.minio", "--data", str(self.folder / "minio"), "--port", str(self.minio_port)]
        variables = self.folder / "minio" / "minio.env"
        address = f"http://127.0.0.1:{self.minio_port}/minio/health/live"
        self.start("minio", store, address, os.environ | self._arrivals(), writes=variables)
        environment = self.environment()
        write_private(self.folder / "env", "".join(f"{name}={shlex.quote(value)}\n" for name, value in environment.items()))
        everything = os.environ | environment
        server = [*python, "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.prefect_port)]
        self.start("prefect", server, f"{self.api}/health", everything)
        worker = [*python, "infra.worker", "--pool", POOL, "--import", *WARM]
        reports = [*python, "infra.reports", "--address", self.reports]
        parts = {
            "worker": (worker, f"http://127.0.0.1:{self.worker_port}/health"),
            "watcher": ([*python, "flows", "watch"], ""),
            "reports": (reports, f"http://{self.reports}/health"),
        }
        begun = {name: self.begin(name, words, health, everything) for name, (words, health) in parts.items()}
        self.once("deployments", [*python, "flows", "deploy", "--pool", POOL], everything)
        for name, process in begun.items():
            self.wait_for(name, process, parts[name][1])
        return self.started()

    @property
    def reports(self) -> str:
        """Host and port of the pages that the UI's links lead to."""
        return f"127.0.0.1:{self.minio_port + REPORTS_OFFSET}"

    @property
    def worker_port(self) -> int:
        """Where the worker says whether it is well."""
        return self.prefect_port + WORKER_OFFSET

    def environment(self) -> dict[str, str]:
        """The variables of this system: where the store and Prefect are, and their passwords."""
        objects = dict(line.split("=", 1) for line in (self.folder / "minio" / "minio.env").read_text(encoding="utf-8").split())
        password = self._password()
        prefect = {
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_API_URL": self.api,
            "PREFECT_API_AUTH_STRING": password,
            "PREFECT_SERVER_API_AUTH_STRING": password,
            "PREFECT_SERVER_UI_API_URL": "/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",  # survives a restart
            "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "3",
            "PREFECT_SERVER_DATABASE_TIMEOUT": "60",  # seconds; on a busy machine SQLite is "locked" for longer than Prefect's 10
            "PREFECT_WORKER_QUERY_SECONDS": "0.5",
            "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
            "PREFECT_WORKER_WEBSERVER_PORT": str(self.worker_port),
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",
            "DO_NOT_TRACK": "1",
        } | vacuum_environment(settings().prefect_days)
        if database := settings().database_url.get_secret_value():
            prefect["PREFECT_API_DATABASE_CONNECTION_URL"] = database
        return objects | prefect | self._arrivals() | {"CLERKFLOW_REPORTS_URL": f"http://{self.reports}"}

    def _arrivals(self) -> dict[str, str]:
        """Where the watcher is told by MinIO what arrives, and what MinIO shows there."""
        address = f"127.0.0.1:{self.minio_port + ARRIVALS_OFFSET}"
        return {"CLERKFLOW_ARRIVALS_ADDRESS": address, "CLERKFLOW_ARRIVALS_TOKEN": self._secret("arrivals-token")}

    def _password(self) -> str:
        return f"clerkflow:{self._secret('password')}"

    def _secret(self, name: str) -> str:
        """A random word that stays the same, in a file for its owner's eyes only."""
        file = self.folder / name
        if not file.exists():
            write_private(file, secrets.token_hex(24))
        return file.read_text(encoding="utf-8").strip()

    def start(self, name: str, words: list[str], health: str, environment: Mapping[str, str], writes: Path | None = None) -> None:
        """Start a process unless it runs, and wait until it is well; the arguments are those of `begin` and `wait_for`."""
        if writes and not self.running(name):
            writes.unlink(missing_ok=True)
        self.wait_for(name, self.begin(name, words, health, environment), health, writes)

    def running(self, name: str) -> bool:
        """Whether a part runs."""
        return any(each.name == name and each.process for each in self.started())

    def begin(self, name: str, words: list[str], health: str, environment: Mapping[str, str]) -> "subprocess.Popen[bytes] | None":
        """Start a process unless it runs.

        Args:
            health: an address that answers when it is well; without one, it is well when it still runs after a while.
        """
        if self.running(name):
            return None
        if self.log(name).exists() and self.log(name).stat().st_size > LOG_BYTES:
            self.log(name).replace(self.folder / f"{name}.log.1")
        with self.log(name).open("ab") as output:
            process = subprocess.Popen(
                words, cwd=ROOT, env=dict(environment), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        self._remember(Started(name, process.pid, psutil.Process(process.pid).create_time(), health))
        return process

    def log(self, name: str) -> Path:
        """What a part has printed."""
        return self.folder / f"{name}.log"

    def wait_for(self, name: str, process: "subprocess.Popen[bytes] | None", health: str, writes: Path | None = None) -> None:
        """Wait until a process that was begun is well.

        Args:
            writes: a file that is there then.

        Raises:
            RuntimeError: it ended, or did not get well in time.
        """
        if process is None:
            return
        end = time.monotonic() + (HEALTHY_SECONDS if health else SETTLING_SECONDS)
        while time.monotonic() < end and process.poll() is None:
            if health and answers(health) and (writes is None or writes.exists()):
                return
            time.sleep(0.2)
        if health or process.poll() is not None:
            said = self.log(name).read_text(encoding="utf-8", errors="replace")[-1000:]
            raise RuntimeError(f"{name} is not well, exit status {process.poll()}; {self.log(name)} ends: {said}")

    def once(self, name: str, words: list[str], environment: Mapping[str, str]) -> None:
        """Run a command to its end."""
        done = subprocess.run(words, cwd=ROOT, env=dict(environment), capture_output=True, text=True, timeout=HEALTHY_SECONDS, check=False)
        if done.returncode:
            raise RuntimeError(f"{name}: {(done.stderr or done.stdout).strip()[-1000:]}")

    def started(self) -> list[Started]:
        """What was started, in that order."""
        file = self.folder / "processes.json"
        return [Started(**each) for each in json.loads(file.read_text(encoding="utf-8"))] if file.exists() else []

    def _remember(self, started: Started) -> None:
        self._keep([each for each in self.started() if each.name != started.name] + [started])

    def _keep(self, processes: list[Started]) -> None:
        incoming = self.folder / "processes.json.incoming"
        incoming.write_text(json.dumps([asdict(each) for each in processes], indent=1), encoding="utf-8")
        incoming.replace(self.folder / "processes.json")

    def down(self) -> list[str]:
        """Stop all of it, the last one first, and return the names of those that ran."""
        running = [(each.name, process) for each in reversed(self.started()) if (process := each.process)]
        for _, process in running:
            _stop(process)
        if self.folder.exists():
            self._keep([])
        return [name for name, _ in running]


def answers(address: str) -> bool:
    """Whether somebody is there; one who asks for a password is."""
    try:
        with urllib.request.urlopen(address, timeout=2):  # noqa: S310 - an address of ours
            return True
    except urllib.error.HTTPError as refused:
        return refused.code in (401, 403)
    except OSError:
        return False


def _stop(process: psutil.Process) -> None:
    """End a process and those it started; by force when it does not end by itself in time."""
    family = [process, *process.children(recursive=True)]
    with suppress(psutil.NoSuchProcess):
        process.terminate()
    _, stubborn = psutil.wait_procs([process], timeout=STOPPING_SECONDS)
    for each in {*stubborn, *family[1:]}:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(family, timeout=STOPPING_SECONDS)


def show(system: System) -> int:
    """A table of what runs, and how to use it; 1 when something that was started does not run, or does not answer."""
    from rich.console import Console
    from rich.table import Table

    console, table = Console(), Table(title="clerkflow on this machine", title_justify="left")
    for heading in ("", "process", "address", "log"):
        table.add_column(heading)
    for each in system.started():
        state = each.state if each.state.isdecimal() else f"[red]{each.state}[/]"
        table.add_row(each.name, state, each.address, os.path.relpath(system.log(each.name)))
    console.print(table if system.started() else "nothing runs")
    if system.started():
        console.print(f"user of the page: clerkflow, password: in {system.folder / 'password'}", soft_wrap=True)
        console.print(f"next, in this shell: set -a; . {system.folder / 'env'}; set +a", soft_wrap=True)
    return 0 if all(each.state.isdecimal() for each in system.started()) else 1


def main() -> int:
    """Start, stop or show."""
    parser = argparse.ArgumentParser(prog="python -m infra.system", description="The whole system on this machine, on loopback.")
    parser.add_argument("command", choices=("up", "down", "status"))
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where it keeps objects, runs, logs and passwords")
    parser.add_argument("--minio-port", type=int, default=9000)
    parser.add_argument("--prefect-port", type=int, default=4200)
    asked = parser.parse_args()
    system = System(asked.folder.absolute(), asked.minio_port, asked.prefect_port)
    if asked.command == "down":
        print(f"stopped: {', '.join(system.down()) or 'nothing, for nothing ran'}")
        return 0
    if asked.command == "up":
        try:
            system.up()
        except BaseException as error:
            system.down()
            if not isinstance(error, RuntimeError):
                raise
            sys.exit(f"not started, and what ran was stopped again: {error}")
    return show(system)


if __name__ == "__main__":
    sys.exit(main())
