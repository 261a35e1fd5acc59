"""Prefect servers that a killed command left behind: ended by the next one; those of a living one stay."""

import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from infra.orphans import OWNER, end_orphans, own_servers

SERVER = "import time; time.sleep(60)  # prefect.server.api.server:create_app"


def server(owner: str | None, words: str = SERVER) -> "subprocess.Popen[bytes]":
    """A process that looks like an ephemeral Prefect server of that owner."""
    environment = {name: value for name, value in os.environ.items() if name != OWNER}
    return subprocess.Popen([sys.executable, "-c", words], env=environment | ({OWNER: owner} if owner else {}))


@pytest.fixture
def dead() -> str:
    """A process that is no more, as an owner."""
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    owner = f"{child.pid}:{psutil.Process(child.pid).create_time():.2f}"
    child.communicate(timeout=20)
    return owner


@pytest.fixture
def started() -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Processes that are ended after the test."""
    found: list[subprocess.Popen[bytes]] = []
    yield found
    for process in found:
        process.kill()
        process.wait(20)


def test_a_server_whose_owner_is_gone_is_ended_and_nothing_else_is(dead: str, started: list["subprocess.Popen[bytes]"]) -> None:
    me = psutil.Process()
    orphan, living = server(dead), server(f"{me.pid}:{me.create_time():.2f}")
    foreign, other = server(None), server(dead, "import time; time.sleep(60)  # no server")
    started += [orphan, living, foreign, other]
    assert end_orphans() == 1
    assert not psutil.pid_exists(orphan.pid)
    assert [process.poll() for process in (living, foreign, other)] == [None, None, None]


def test_another_process_with_the_owners_id_is_not_its_owner(started: list["subprocess.Popen[bytes]"]) -> None:
    started.append(server(f"{os.getpid()}:1.00"))
    assert end_orphans() == 1


def test_servers_of_this_program_say_whose_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OWNER, "")
    own_servers()
    assert os.environ[OWNER].startswith(f"{os.getpid()}:")
