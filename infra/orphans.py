"""Orphans: Prefect servers that a killed command left behind. Each is known by a variable that names its owner, and ended by its id."""

import os
from contextlib import suppress

import psutil

OWNER = "CLERKFLOW_SERVER_OWNER"  # process id and start time of the command for which an ephemeral server was started
ENDING_SECONDS = 5.0


def own_servers() -> None:
    """Let servers that this program starts say whose they are; must be called before one is started."""
    me = psutil.Process()
    os.environ[OWNER] = f"{me.pid}:{me.create_time():.2f}"


def end_orphans() -> int:
    """End this user's servers whose owner is gone, and return how many there were."""
    orphans = [process for process in psutil.process_iter() if _is_orphan(process)]
    for process in orphans:
        with suppress(psutil.Error):
            process.terminate()
    _, stubborn = psutil.wait_procs(orphans, timeout=ENDING_SECONDS)
    for process in stubborn:
        with suppress(psutil.Error):
            process.kill()
    return len(orphans)


def _is_orphan(process: psutil.Process) -> bool:
    """Whether a process is an ephemeral Prefect server whose owner is gone."""
    with suppress(psutil.Error, ValueError):
        if process.uids().real != os.getuid() or not any("prefect.server" in word for word in process.cmdline()):
            return False
        owner = process.environ().get(OWNER)
        return owner is not None and not _lives(*owner.split(":"))
    return False


def _lives(pid: str, started: str) -> bool:
    try:
        return bool(abs(psutil.Process(int(pid)).create_time() - float(started)) < 1)
    except psutil.NoSuchProcess:
        return False
