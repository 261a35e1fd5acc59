"""Here: this process, in words that tell it from every other one on every machine; and whether the one of such words still runs."""

import os
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

SAME_SECONDS = 2.0  # what a start time may be off by when clocks are set


@cache
def machine() -> str:
    """This boot of this machine and this container's processes; empty where that cannot be told."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def here() -> str:
    """This process: its machine, id, and start, for ids are used again."""
    return f"{machine()} {os.getpid()} {psutil.Process().create_time():.2f}"


def seconds() -> float:
    """A clock whose differences count, and which goes on while this machine sleeps, where the system has such a one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def is_alive(place: str) -> bool | None:
    """Whether the process of a place still runs; None when another machine would have to say."""
    there, pid, started = place.rsplit(" ", 2) if place.count(" ") >= 2 else ("", "", "")
    if not machine() or there != machine():
        return None
    try:
        process = psutil.Process(int(pid))
        return bool(process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - float(started)) < SAME_SECONDS)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return None
