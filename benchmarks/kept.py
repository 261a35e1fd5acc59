"""Kept: what a long benchmark has measured, so that one that was stopped goes on where it was, on any day.

A line of benchmarks/results/<name>.jsonl for each training, with the digests of what it came from: the benchmark, the stages of a training
and all of tasks/ that these import, its declaration and records, the versions of the libraries. Where one of these differs it is trained
again. Several may write at once, and a line that was torn is none.
"""

import ast
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.measuring import ROOT

FOLDER = ROOT / "benchmarks" / "results"  # not part of the repository
OWN = ("benchmarks/real.py", "benchmarks/slots.py", "flows/train.py")
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
    for found in _lines(file):
        if found["key"] == list(key) and of.items() <= found["of"].items():
            return found["rows"], found["at"]
    rows = measure()
    file.parent.mkdir(exist_ok=True)
    with file.open("a", encoding="utf-8") as opened:
        line = json.dumps({"key": list(key), "at": f"{datetime.now(UTC):%Y-%m-%d %H:%M}", "of": of, "rows": rows})
        opened.write(f"\n{line}\n")  # one before may be torn
    return rows, None


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """What was kept, the newest first."""
    for line in reversed(file.read_text(encoding="utf-8").splitlines() if file.exists() else []):
        with suppress(json.JSONDecodeError):
            yield json.loads(line)


def sources(declared: Path) -> dict[str, str]:
    """Digests of the code of a training, of its declaration and its records, and versions of the libraries."""
    from tasks.artifacts import file_digest
    from tasks.declaration import load_process
    from tasks.runs import versions
    from tasks.stories import code_digests

    code = {name: digest for name, digest in code_digests().items() if Path(name).stem in reached()}
    records = load_process(declared.name, declared.parent).records
    named = {"records": records.source, "validation": records.validation, "test": records.test, "process.yaml": "process.yaml"}
    files = {name: declared / file for name, file in named.items() if file} | {name: ROOT / name for name in OWN}
    return code | {name: file_digest(file) for name, file in files.items()} | versions()


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
