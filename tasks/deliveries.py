"""Deliveries: accepted answers -> what a business works with: a sheet of chosen columns, perhaps one for each queue, and a document each.

They are files of the batch, stored before its manifest, so that they too are seen whole or not at all. What a person still has to look
at is in none of them; it comes when it was reviewed, in a batch of its own (tasks/released.py), as the correction does of an accepted one.
"""

import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any

from tasks.documents import FORMATS, Document, entry
from tasks.process import Process
from tasks.prompts import columns_of, render
from tasks.records import Record, as_text, lookup
from tasks.sinks import TABLES, Predicted, WriteCells
from tasks.terms import Batches, Documents, Sheet

PART_DOCUMENTS = 5_000  # of a ZIP: its table of contents stays small, and a person can still open it
NAME_CHARACTERS = 60
MOST_SHEETS = 200  # files that are open at once
OWN = ("confidence", "model_version")  # values that every answer has

Values = Mapping[str, Any]
Deliver = Callable[[Sequence[tuple[Record, Predicted]]], None]


def deliverable(process: Process) -> tuple[str, ...]:
    """The paths that sheets and documents may name: the record's, its answer's, and what every answer has."""
    return (process.records.key, *process.columns, *OWN)


def values_of(process: Process, record: Record, row: Predicted) -> dict[str, Any]:
    """A record and its answer as one row of values by path."""
    own = {process.records.key: record.id, "confidence": row.confidence, "model_version": row.model_version}
    return record.values | columns_of(process, row.output) | own


@contextmanager
def deliveries(folder: Path, process: Process, wanted: Batches) -> Iterator[Deliver]:
    """Whoever is given accepted records with their answers writes what is declared into a batch's folder.

    Args:
        process: the model's own declaration: what its answers are.
        wanted: today's declaration.
    """
    with ExitStack() as stack:
        writers = [stack.enter_context(make) for make in _writers(folder, process, wanted)]

        def deliver(accepted: Sequence[tuple[Record, Predicted]]) -> None:
            if writers and accepted:
                rows = [(record.line, values_of(process, record, row)) for record, row in accepted]
                for write in writers:
                    write(rows)

        yield deliver


Rows = Sequence[tuple[int, Values]]  # line of the source, values by path
Write = Callable[[Rows], None]


def _writers(folder: Path, process: Process, wanted: Batches) -> Iterator[AbstractContextManager[Write]]:
    if wanted.sheet:
        yield _sheets(folder, wanted.sheet, process)
    if wanted.documents:
        yield _documents(folder / "documents", wanted.documents, process)


# Sheets


@contextmanager
def _sheets(folder: Path, declared: Sheet, process: Process) -> Iterator[Write]:
    """sheet.<format>, or sheets/<value>.<format> for each value of the column that it is split by."""
    make = TABLES[declared.format]
    with ExitStack() as stack:
        if declared.split_by is None:
            write = stack.enter_context(make(folder / f"sheet.{declared.format}", declared.columns))
            yield lambda rows: write([_cells(declared, values) for _, values in rows])
            return
        (folder / "sheets").mkdir()
        names = file_names([as_text(value) for value in split_values(process, declared.split_by) or ("",)])
        paths = {value: folder / "sheets" / f"{name}.{declared.format}" for value, name in names.items()}
        opened = {value: stack.enter_context(make(path, declared.columns)) for value, path in paths.items()}
        yield partial(_write_split, opened, declared)


def _write_split(opened: Mapping[str, WriteCells], declared: Sheet, rows: Rows) -> None:
    """Each row to the sheet of its value; one whose value is not declared any more to that of the others."""
    parted: dict[str, list[Sequence[Any]]] = {}
    for _, values in rows:
        value = as_text(lookup(values, declared.split_by or ""))
        parted.setdefault(value if value in opened else "", []).append(_cells(declared, values))
    for value, cells in parted.items():
        opened[value](cells)


def split_values(process: Process, path: str) -> tuple[Any, ...] | None:
    """The values that a sheet may be split by, with the empty one last; None where they are not declared."""
    column = process.output_columns.get(path) or process.column(path)
    if column.list or not (column.values or column.type == "boolean"):
        return None
    return (*(column.values or (True, False)), "")


def file_names(values: Sequence[str]) -> dict[str, str]:
    """Value -> a name that any disk takes and no other value has; of the empty one: other."""
    names: dict[str, str] = {}
    for value in values:
        plain, taken = _file_name(value) or "other", {name.casefold() for name in names.values()}
        numbered = (f"{plain}-{number}" for number in count(2))
        names[value] = next(name for name in chain([plain], numbered) if name.casefold() not in taken)
    return names


def _file_name(text: str) -> str:
    """Letters and digits of any script, and what joins them; neither a path nor hidden."""
    return re.sub(r"[^\w.+-]+", "_", text).strip("._")[:NAME_CHARACTERS]


def _cells(declared: Sheet, values: Values) -> list[Any]:
    return [_shown(lookup(values, path)) for path in declared.columns]


def _shown(value: Any) -> Any:
    """Numbers stay numbers; lists and objects are as a person would write them."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else as_text(value)


# Documents


class _Archives:
    """documents/<number>.zip, each with so many documents as a person can still open."""

    def __init__(self, folder: Path, declared: Documents, process: Process) -> None:
        self.folder, self.declared, self.process = folder, declared, process
        self.named = declared.file_name or f"{{{process.records.key}}}"
        self.archive: zipfile.ZipFile | None = None
        self.written = 0
        folder.mkdir()

    def write(self, rows: Rows) -> None:
        """A document for each row."""
        ending, make = FORMATS[self.declared.format]
        for line, values in rows:
            name = f"{line:08d}-{_file_name(render(self.named, values))}".rstrip("-")
            document = make(document_of(self.declared, self.process, values))
            self._open().writestr(entry(f"{name}.{ending}"), document)
            self.written += 1

    def _open(self) -> zipfile.ZipFile:
        """The archive that the next document goes to."""
        if self.archive is None or self.written % PART_DOCUMENTS == 0:
            self.close()
            self.archive = zipfile.ZipFile(self.folder / f"{self.written // PART_DOCUMENTS + 1:05d}.zip", "w")
        return self.archive

    def close(self) -> None:
        """End the archive that is open."""
        if self.archive:
            self.archive.close()


@contextmanager
def _documents(folder: Path, declared: Documents, process: Process) -> Iterator[Write]:
    with closing(_Archives(folder, declared, process)) as archives:
        yield archives.write


def document_of(declared: Documents, process: Process, values: Values) -> Document:
    """The document of a record and its answer."""
    text = declared.text
    if not isinstance(text, str):
        text = text.get(as_text(lookup(values, process.output.label or "")), "")
    rows = {path: as_text(lookup(values, path)) for path in declared.columns}
    return Document.of(render(declared.title, values), render(text, values), rows)
