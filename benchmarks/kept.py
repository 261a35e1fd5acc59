"""Kept: what a long benchmark has measured, so that one that was stopped goes on where it was, on any day.

A line of benchmarks/results/<name>.jsonl for each training, with the digests of what it came from: the modules of tasks/ that its process
had loaded, its declaration, the versions of the libraries. Where one of these differs it is trained again. Several may write at once.
"""

import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"  # not part of the repository

Rows = list[dict[str, Any]]


def kept_or(measure: Callable[[], Rows], name: str, key: Sequence[Any], declared: Path) -> tuple[Rows, str | None]:
    """The rows of one training, and when they were measured where that was before; measured now otherwise.

    Args:
        name: of the benchmark.
        key: what tells this training from others of the benchmark.
        declared: folder of its declaration.
    """
    file = FOLDER / f"{name}.jsonl"
    for line in reversed(file.read_text(encoding="utf-8").splitlines() if file.exists() else []):
        found = json.loads(line)
        if found["key"] == list(key) and found["of"] == sources(declared, [name for name in found["of"] if name.endswith(".py")]):
            return found["rows"], found["at"]
    rows = measure()
    line = json.dumps({"key": list(key), "at": f"{datetime.now(UTC):%Y-%m-%d %H:%M}", "of": sources(declared), "rows": rows})
    file.parent.mkdir(exist_ok=True)
    with file.open("a", encoding="utf-8") as opened:
        opened.write(line + "\n")
    return rows, None


def sources(declared: Path, modules: Sequence[str] | None = None) -> dict[str, str]:
    """Digests of the named modules, of those loaded by now when None, of a declaration, and versions of the libraries."""
    from tasks.artifacts import file_digest
    from tasks.runs import versions
    from tasks.stories import code_digests

    every = code_digests()
    used = [name for name in every if name[:-3].replace("/", ".") in sys.modules] if modules is None else modules
    return {name: every.get(name, "gone") for name in used} | {"process.yaml": file_digest(declared / "process.yaml")} | versions()
