"""A PostgreSQL server of one's own on loopback, for tests and benchmarks; nothing stays of it."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra.credentials import write_private
from infra.ending import end
from infra.ports import free_port

NAMED = "CLERKFLOW_TEST_POSTGRES_URL"  # a server to use instead: the URL of a database in which others may be made
DEBIAN = Path("/usr/lib/postgresql")
START_SECONDS = 60


def find_programs() -> Path:
    """The folder of initdb and postgres: that on the PATH, else the newest of Debian's.

    Raises:
        FileNotFoundError: there is none; the message says how to get it.
    """
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda path: float(path.parent.parent.name))
    if not versions:
        raise FileNotFoundError(f"no PostgreSQL on the PATH nor below {DEBIAN}: apt-get install postgresql, or name a server: {NAMED}")
    return versions[-1].parent


@contextmanager
def running() -> Iterator[str]:
    """The URL of a server's database, with its password: the one the environment names, else a server started here.

    Raises:
        FileNotFoundError: there is no PostgreSQL.
        RuntimeError: it did not start; the message ends with its own words.
    """
    if named := os.environ.get(NAMED):
        yield named
        return
    programs, user = find_programs(), _user()
    with tempfile.TemporaryDirectory(prefix="clerkflow-postgres-", ignore_cleanup_errors=True) as name:
        folder, password = Path(name), secrets.token_urlsafe(20)
        write_private(folder / "password", password)
        _give(folder, user)
        _make(programs, folder, user)
        server, url = _start(programs, folder, user, password)
        try:
            yield url
        finally:
            server.send_signal(signal.SIGINT)  # does not wait for clients, as SIGTERM would
            end(server)


def _user() -> dict[str, Any]:
    """Who the server runs as: PostgreSQL refuses root, and Debian's package brings a user of its own."""
    if os.geteuid() != 0:
        return {}
    found = pwd.getpwnam("postgres")
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}


def _give(folder: Path, user: dict[str, Any]) -> None:
    for path in (folder, *folder.iterdir()) if user else ():
        os.chown(path, user["user"], user["group"])


def _make(programs: Path, folder: Path, user: dict[str, Any]) -> None:
    """A cluster of databases with one user, who has a password."""
    words: list[Any] = [programs / "initdb", "-D", folder / "data", "-U", "clerkflow", f"--pwfile={folder / 'password'}"]
    words += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
    answer = subprocess.run(words, **user, env=_environment(), cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    if answer.returncode:
        raise RuntimeError(f"initdb failed: {answer.stderr[-1000:]}")


def _start(programs: Path, folder: Path, user: dict[str, Any], password: str) -> tuple["subprocess.Popen[Any]", str]:
    """The server, when it answers, and its URL; where another process took the port just then, the next one is tried."""
    log = folder / "log"
    for _ in range(3):
        port = free_port()
        words: list[Any] = [programs / "postgres", "-D", folder / "data", "-p", str(port)]
        words += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "log_error_verbosity=terse"]
        with log.open("wb") as stream:
            server = subprocess.Popen(words, **user, env=_environment(), cwd=folder, stdout=stream, stderr=stream)
        url = f"postgresql://clerkflow:{password}@127.0.0.1:{port}/postgres"
        if _answers(server, url):
            return server, url
        end(server)
    raise RuntimeError(f"PostgreSQL did not start: {log.read_text(errors='replace')[-1000:]}")


def _answers(server: "subprocess.Popen[Any]", url: str) -> bool:
    """Whether it takes connections in time."""
    import psycopg

    limit = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < limit:
        try:
            psycopg.connect(url, connect_timeout=5).close()
            return True
        except psycopg.OperationalError:
            time.sleep(0.1)
    return False


def _environment() -> dict[str, str]:
    """No variable of ours, for some are secrets."""
    return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"}
