"""The whole system on this machine: real MinIO, Prefect server, worker, deployments and watcher."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from infra.system import ARRIVALS_OFFSET, WORKER_OFFSET, System

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def system(tmp_path: Path, minio_program: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    """A system of one's own, with a process that is declared; nothing of it runs afterwards."""
    folder = tmp_path / "processes" / "toy"
    folder.mkdir(parents=True)
    (folder / "process.yaml").write_text(DECLARATION, encoding="utf-8")
    (folder / "sample.jsonl").write_text('{"text": "a", "queue": "b"}\n', encoding="utf-8")
    monkeypatch.setenv("CLERKFLOW_PROCESSES", str(folder.parent))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in [name for name in os.environ if name.startswith(("CLERKFLOW_S3_", "PREFECT_API"))]:
        monkeypatch.delenv(name)
    made = System(tmp_path / "system", free_port(ARRIVALS_OFFSET), free_port(WORKER_OFFSET))
    yield made
    made.down()


DECLARATION = """
name: toy
owner: tests
records: {source: sample.jsonl}
sample: {prompt: "Message: {text}\\nQueue:"}
output: {label: queue}
gate: [{metric: accuracy, at_least: 0.5}]
"""


def free_port(offset: int) -> int:
    """A free port whose neighbour at an offset is free, too."""
    for _ in range(50):
        with socket.socket() as probe, socket.socket() as neighbour:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            try:
                neighbour.bind(("127.0.0.1", port + offset))
            except (OSError, OverflowError):
                continue
            return port
    pytest.fail("no two free ports")


def family(system: System) -> list[psutil.Process]:
    processes = [each.process for each in system.started() if each.process]
    return [*processes, *(child for process in processes for child in process.children(recursive=True))]


def until(asked: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not (answer := asked()) and time.monotonic() < end:
        time.sleep(0.1)
    return answer


def command(system: System, word: str) -> int:
    """What a person types; its exit status."""
    ports = ["--minio-port", str(system.minio_port), "--prefect-port", str(system.prefect_port)]
    words = [sys.executable, "-m", "infra.system", word, "--folder", str(system.folder), *ports]
    return subprocess.run(words, cwd=ROOT, stdout=subprocess.DEVNULL, timeout=150, check=False).returncode


def parts(system: System) -> dict[str, int]:
    return {each.name: each.pid for each in system.started()}


def test_it_comes_up_once_is_seen_to_fail_comes_up_again_and_leaves_nothing(system: System) -> None:
    assert command(system, "up") == 0
    first = parts(system)
    assert list(first) == ["minio", "prefect", "worker", "watcher"]
    assert [each.state for each in system.started()] == [str(pid) for pid in first.values()]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(
            urllib.request.Request(f"{system.api}/flows/filter", b"{}", {"Content-Type": "application/json"}), timeout=10
        )

    os.kill(first["watcher"], signal.SIGKILL)
    assert until(lambda: [each.state for each in system.started()][-1] == "gone")
    assert command(system, "status") == 1
    assert command(system, "up") == 0
    assert [name for name, pid in parts(system).items() if first[name] != pid] == ["watcher"]

    members = family(system)
    assert len(members) > len(first)
    assert command(system, "down") == 0
    assert [each for each in members if each.is_running()] == []
    assert system.down() == []
