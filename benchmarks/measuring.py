"""Measuring: what a benchmark asks of its own process."""

import resource
import sys
from pathlib import Path


def peak_bytes() -> int:
    """Peak memory of this program; on Linux of it alone, for getrusage also counts what its parent had when it was started."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
