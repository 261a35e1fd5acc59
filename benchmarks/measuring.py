"""Measuring: what a benchmark asks of its own process, and of one that it starts."""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

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
