"""Forks of a process that has imported everything: they are as a process of its own would be, and none is left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from infra.warm import SOCKET

ROOT = Path(__file__).resolve().parents[2]
# What runs in a fork: says what it sees, then waits or ends as it is told.
BODY = """
import os, sys, time
from pathlib import Path
from infra import forking
forking.ROOT = Path(sys.argv[2])
sys.path.insert(0, sys.argv[2])
forking.wait(Path(sys.argv[1]), ["imported"])
print(os.getpid(), os.environ["WORD"], os.getcwd(), sys.modules["imported"].VALUE, flush=True)
time.sleep(float(os.environ["SECONDS"]))
sys.exit(7)
"""


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[tuple[Path, psutil.Popen]]:
    """The socket of a process that waits, and the process."""
    (tmp_path / "imported.py").write_text("VALUE = 1\n")
    path = tmp_path / "socket"
    words = [sys.executable, "-c", BODY, str(path), str(tmp_path)]
    process = psutil.Popen(words, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert until(path.exists)
    yield path, process
    if process.is_running():
        process.terminate()
        process.wait(10)


def ask(path: Path, folder: Path, seconds: float) -> "subprocess.Popen[str]":
    """Somebody who asks for a fork."""
    environment = os.environ | {SOCKET: str(path), "WORD": "word", "SECONDS": str(seconds), "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "infra.warm"]
    return subprocess.Popen(words, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def until(asked: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not (answer := asked()) and time.monotonic() < end:
        time.sleep(0.05)
    return answer


def test_a_fork_sees_what_its_asker_sees_and_the_asker_ends_as_it_ends(waiting: tuple[Path, psutil.Popen], tmp_path: Path) -> None:
    path, process = waiting
    asker = ask(path, tmp_path, 0)
    out, _ = asker.communicate(timeout=20)
    pid, *seen = out.split()
    assert seen == ["word", str(tmp_path), "1"]
    assert asker.returncode == 7
    assert int(pid) not in (asker.pid, process.pid)


def test_a_signal_to_the_asker_ends_the_fork_and_so_does_its_death(waiting: tuple[Path, psutil.Popen], tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        asker = ask(waiting[0], tmp_path, 60)
        assert asker.stdout
        pid = int(asker.stdout.readline().split()[0])
        asker.send_signal(number)
        asker.communicate(timeout=20)
        assert asker.returncode == -number
        assert until(lambda pid=pid: not psutil.pid_exists(pid))  # type: ignore[misc]


def test_when_nobody_waits_the_engine_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    asker = ask(tmp_path / "nothing", tmp_path, 0)
    out, error = asker.communicate(timeout=240)
    assert asker.returncode == 1
    assert "Invalid flow run id" in out + error


def test_after_a_change_of_what_was_imported_nobody_is_forked_any_more(waiting: tuple[Path, psutil.Popen], tmp_path: Path) -> None:
    os.utime(tmp_path / "imported.py", (1, 1))
    asker = ask(waiting[0], tmp_path, 0)
    out, error = asker.communicate(timeout=240)
    assert "word" not in out
    assert "Invalid flow run id" in out + error


def test_a_killed_parent_leaves_neither_the_process_that_waits_nor_its_forks(tmp_path: Path) -> None:
    (tmp_path / "imported.py").write_text("VALUE = 1\n")
    path = tmp_path / "socket"
    parent = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"
    words = [sys.executable, "-c", parent, BODY, str(path), str(tmp_path)]
    process = psutil.Popen(words, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert until(path.exists)
    asker = ask(path, tmp_path, 60)
    assert asker.stdout and asker.stdout.readline()
    family = process.children(recursive=True)
    process.kill()
    process.wait(10)
    assert until(lambda: not any(one.is_running() for one in family))
    asker.communicate(timeout=20)
    assert asker.returncode == -signal.SIGKILL
