"""Measuring: what a benchmark asks of its own process, of one that it starts, and of the store that it works in."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.artifacts import Artifact

ROOT = Path(__file__).resolve().parent.parent


def told_by(module: str, file: Path) -> dict[str, Any]:
    """What `child()` of a benchmark says of itself in its last line, in a process of its own, about a file.

    Raises:
        RuntimeError: it failed.
    """
    words = [sys.executable, "-c", f"from {module} import child; child()", str(file)]
    answer = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise RuntimeError(f"scoring {file.name} failed: {answer.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return found


def peak_bytes() -> int:
    """Peak memory of this program; on Linux of it alone, for getrusage also counts what its parent had when it was started."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def work_in(folder: Path) -> None:
    """Let store, cache and Prefect's files of this program stand in a folder, apart from a person's own."""
    os.environ |= {"CLERKFLOW_STORE": f"{folder}/store", "CLERKFLOW_CACHE": f"{folder}/cache", "PREFECT_HOME": f"{folder}/prefect"}


def last_training(process: str) -> "tuple[Artifact, Artifact]":
    """model/ and evaluation/ of a process's last run."""
    from infra.store import open_store
    from tasks.artifacts import Artifact

    store = open_store()
    run = json.loads(store.read(max(info.key for info in store.list(f"{process}/runs/") if info.key.endswith("/run.json")))[0])
    model, evaluation = (Artifact.model_validate(found) for found in run["artifacts"][-2:])
    return model, evaluation


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
