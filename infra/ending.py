"""Ending: a child of ours -> gone, in good order when it listens."""

import subprocess
from typing import Any


def end(child: "subprocess.Popen[Any]", seconds: float = 10.0) -> None:
    """Ask a process to end, and kill it when it has not done so in time; by its id, never by name."""
    child.terminate()
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait(seconds)
