"""Kept: what a long benchmark has measured, so that one that was stopped goes on where it was, on any day.

A line of benchmarks/results/<name>.jsonl for each training, with the digests of what it came from: the stages of a training and all of
tasks/ that these import, its declaration, the versions of the libraries. Where one of these differs it is trained again. Several may
write at once.
"""

import ast
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.measuring import ROOT, read_lines

FOLDER = ROOT / "benchmarks" / "results"  # not part of the repository
STAGES = ("ingestion", "validation", "preparation", "finetuning", "compression", "evaluation", "gate")

Rows = list[dict[str, Any]]


def kept_or(measure: Callable[[], Rows], name: str, key: Sequence[Any], declared: Path) -> tuple[Rows, str | None]:
    """The rows of one training, and when they were measured where that was before; measured now otherwise.

    Args:
        name: of the benchmark.
        key: what tells this training from others of the benchmark.
        declared: folder of its declaration.
    """
    file, of = FOLDER / f"{name}.jsonl", sources(declared)
    for found in reversed(read_lines(file) if file.exists() else []):
        if found["key"] == list(key) and of.items() <= found["of"].items():
            return found["rows"], found["at"]
    rows = measure()
    file.parent.mkdir(exist_ok=True)
    with file.open("a", encoding="utf-8") as opened:
        opened.write(json.dumps({"key": list(key), "at": f"{datetime.now(UTC):%Y-%m-%d %H:%M}", "of": of, "rows": rows}) + "\n")
    return rows, None


def sources(declared: Path) -> dict[str, str]:
    """Digests of the code of a training and of its declaration, and versions of the libraries."""
    from tasks.artifacts import file_digest
    from tasks.runs import versions
    from tasks.stories import code_digests

    code = {name: digest for name, digest in code_digests().items() if Path(name).stem in reached()}
    return code | {"process.yaml": file_digest(declared / "process.yaml")} | versions()


@cache
def reached() -> frozenset[str]:
    """The modules of tasks/ that a training may come to."""
    found, waiting = set[str](), list(STAGES)
    while waiting:
        if (module := waiting.pop()) not in found and (file := ROOT / "tasks" / f"{module}.py").exists():
            found.add(module)
            waiting += imported(file)
    return frozenset(found)


def imported(file: Path) -> Iterator[str]:
    """What a file imports of tasks/, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "tasks":
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tasks."):
            yield str(node.module).removeprefix("tasks.")
