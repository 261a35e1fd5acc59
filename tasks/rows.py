"""Rows: a finished batch -> the rows of its files: predictions in whatever format, what was left to people, dead letters."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from infra.store import Store
from tasks.artifacts import Artifact, fetch_file, listing_of, scratch
from tasks.delimited import take_wide_cells
from tasks.routing import FILE as REVIEW
from tasks.sinks import LETTERS, safe_cell, spreadsheet_cell
from tasks.workbooks import unescaped

Facts = Mapping[str, Any]


def rows_of(store: Store, artifact: Artifact, record: str | None = None) -> Iterator[tuple[str, Facts]]:
    """File and row of each record; of those with one id only, where one is given."""
    for name in listing_of(store, artifact):
        if name.startswith("predictions.") or name in (REVIEW, LETTERS):
            yield from ((name, row) for row in rows_in(store, artifact, name, record))


def rows_in(store: Store, artifact: Artifact, name: str, record: str | None = None) -> Iterator[Facts]:
    """Rows of one file."""
    with scratch() as folder:
        yield from READERS[name.rpartition(".")[2]](fetch_file(store, artifact, name, folder), record)


def known_as(id: str) -> str:
    """What an id is called in every format: a spreadsheet's may be led by an apostrophe."""
    return str(safe_cell(id))


def json_rows(path: Path, record: str | None = None) -> Iterator[Facts]:
    """Rows of a file of JSON lines; where an id is given, only lines that hold it are parsed."""
    wanted = "" if record is None else json.dumps(record, ensure_ascii=False)
    with path.open(encoding="utf-8", newline="\n") as stream:
        for line in stream:
            if wanted in line and (row := json.loads(line))["record_id"] == (row["record_id"] if record is None else record):
                yield row


def _comma_separated(path: Path, record: str | None) -> Iterator[Facts]:
    take_wide_cells()
    with path.open(encoding="utf-8-sig", newline="") as stream:
        yield from (row for row in csv.DictReader(stream) if record is None or row["record_id"] == known_as(record))


def _parquet(path: Path, record: str | None) -> Iterator[Facts]:
    from pyarrow.compute import field
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield from (batch if record is None else batch.filter(field("record_id") == record)).to_pylist()


def _spreadsheet(path: Path, record: str | None) -> Iterator[Facts]:
    from openpyxl import load_workbook

    book, wanted = load_workbook(path, read_only=True), None if record is None else spreadsheet_cell(record)
    try:
        for sheet in book:
            rows = ([unescaped(cell) if isinstance(cell, str) else cell for cell in row] for row in sheet.iter_rows(values_only=True))
            header = next(rows)
            yield from (dict(zip(header, row, strict=False)) for row in rows if record is None or row[0] == wanted)
    finally:
        book.close()


READERS: dict[str, Callable[[Path, str | None], Iterator[Facts]]] = {
    "jsonl": json_rows,
    "csv": _comma_separated,
    "parquet": _parquet,
    "xlsx": _spreadsheet,
}
