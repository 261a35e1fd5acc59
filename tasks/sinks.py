"""Sinks: predictions and dead letters, row by row -> files; memory stays flat however many rows there are.

JSON Lines and Parquet keep every value as it is. CSV is for people: UTF-8 with a byte order mark (without it Excel reads Chinese as
Latin-1), CRLF, every text quoted, and what a spreadsheet would run as a formula is led by an apostrophe. XLSX is for people, too; its
texts are marked as texts, so none of them is run, and one that is longer than a cell may be is cut.
"""

import csv
import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from tasks.process import Process

INVISIBLE = r"\s\x00-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff"  # what a spreadsheet may skip before it looks for a formula
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
FORMULA = frozenset("=+-@")
CELL_CHARACTERS = 32_767  # the most that a cell of XLSX holds
SHEET_ROWS = 1_048_576  # the most that a sheet of it holds; then another one begins
LETTERS = "dead_letters.jsonl"
ORIGINALS = "dead_letters.raw"
ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
EXACT = 10**15  # from here on a spreadsheet rounds whole numbers


@dataclass(frozen=True, slots=True)
class Predicted:
    """One row of predictions."""

    record_id: str
    output: Any  # a label, a dict of fields, or a text
    confidence: float  # 0-1
    model_version: str
    line: int  # of the source, 1-based
    fields: Mapping[str, float] | None = None  # how likely each field is what it says, or rightly absent; in predictions of fields only


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that got no output: where it stood, which step gave it up and why, and what it was."""

    record_id: str
    line: int
    stage: str  # reading, inputs, review or prediction
    code: str  # one of tasks.reasons
    reason: str  # words without values
    attempt: int  # how often it was asked about, this time included
    source: str  # the file's name or key, with the digest of its bytes: together with the line, where the record came from
    source_sha256: str
    content: str  # the line as it came, or the record's values as JSON
    original: Mapping[str, Any] | None = None  # where the row as it came stands in dead_letters.raw, see `originals`


OutputFormat = Literal["jsonl", "csv", "parquet", "xlsx"]
Write = Callable[[Sequence[Any]], None]


def as_dict(row: Any, names: Sequence[str] = ()) -> dict[str, Any]:
    """The row by column name, all of it or these columns; dataclasses.asdict would copy every value in it."""
    return {name: getattr(row, name) for name in names or row.__slots__}


def predicted_columns(process: Process) -> tuple[str, ...]:
    """The columns of a process's predictions."""
    return tuple(name for name in Predicted.__slots__ if name != "fields" or process.output.kind == "fields")


def as_json(value: Any) -> str:
    """Compact JSON; half a surrogate pair is escaped by the file that it is written to."""
    return ENCODER.encode(value)


@contextmanager
def json_lines(path: Path, process: Process | None = None) -> Iterator[Write]:
    """One JSON object a line, in UTF-8; of predictions, when a process is given."""
    names = predicted_columns(process) if process else ()
    # A lone surrogate cannot be UTF-8; backslashreplace writes it as \udxxx, which is what JSON calls it.
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
        yield lambda rows: stream.writelines(as_json(as_dict(row, names)) + "\n" for row in rows)


Keep = Callable[[bytes], Mapping[str, Any] | None]


@contextmanager
def originals(path: Path) -> Iterator[Keep]:
    """Rows as they came, one behind the other, each with a line end: the source may be overwritten, or be a table that has changed.

    Of each is told from which byte on it stands, of how many bytes it is, and their SHA-256; nothing of a row without bytes.
    """
    with path.open("wb") as stream:

        def keep(row: bytes) -> Mapping[str, Any] | None:
            if not row:
                return None
            offset = stream.tell()
            stream.write(row + b"\n")
            return {"offset": offset, "bytes": len(row), "sha256": hashlib.sha256(row).hexdigest()}

        yield keep


WriteCells = Callable[[Sequence[Sequence[Any]]], None]
OpenTable = Callable[[Path, Sequence[str]], AbstractContextManager[WriteCells]]  # a file and its header -> what writes rows of cells


@contextmanager
def comma_separated_rows(path: Path, header: Sequence[str]) -> Iterator[WriteCells]:
    """Rows of cells -> CSV."""
    with path.open("w", encoding="utf-8-sig", errors="replace", newline="") as stream:
        sheet = csv.writer(stream, quoting=csv.QUOTE_NONNUMERIC)
        sheet.writerow([safe_cell(name) for name in header])
        yield lambda rows: sheet.writerows([[safe_cell(value) for value in row] for row in rows])


@contextmanager
def spreadsheet_rows(path: Path, header: Sequence[str]) -> Iterator[WriteCells]:
    """Rows of cells -> XLSX, one row in memory at a time; the same rows give the same bytes."""
    from xlsxwriter import Workbook

    plain = {"strings_to_formulas": False, "strings_to_numbers": False, "strings_to_urls": False}
    with closing(Workbook(path, {"constant_memory": True, "tmpdir": str(path.parent), **plain})) as book:
        book.set_properties({"created": datetime(1980, 1, 1, tzinfo=UTC)})
        book.use_zip64()
        bold = book.add_format({"bold": True})

        def begin() -> Any:
            sheet = book.add_worksheet()
            sheet.freeze_panes(1, 0)
            sheet.write_row(0, 0, [spreadsheet_cell(name) for name in header], bold)
            return sheet

        sheet, row = begin(), 1

        def write(rows: Sequence[Sequence[Any]]) -> None:
            nonlocal sheet, row
            for cells in rows:
                if row == SHEET_ROWS:
                    sheet, row = begin(), 1
                sheet.write_row(row, 0, [spreadsheet_cell(value) for value in cells])
                row += 1

        yield write


TABLES: dict[str, OpenTable] = {"csv": comma_separated_rows, "xlsx": spreadsheet_rows}


def in_columns(open_table: OpenTable) -> Callable[[Path, Process], AbstractContextManager[Write]]:
    """A table with the columns of Predicted; for fields also one column `output.<field>` each. Objects and lists are JSON."""

    @contextmanager
    def predictions(path: Path, process: Process) -> Iterator[Write]:
        names, fields = predicted_columns(process), list(process.output.fields or {})
        with open_table(path, [*names, *(f"output.{name}" for name in fields)]) as write:
            yield lambda rows: write([[*as_dict(row, names).values(), *(row.output.get(name) for name in fields)] for row in rows])

    return predictions


def spreadsheet_cell(value: Any) -> str | int | float | None:
    """A cell of XLSX: numbers stay numbers where it holds them exactly, objects are JSON, texts are what it takes."""
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < EXACT):
        return value
    text = CONTROL.sub("\N{REPLACEMENT CHARACTER}", whole_text(as_text_cell(value)))
    return text if len(text) <= CELL_CHARACTERS else f"{text[: CELL_CHARACTERS - 1]}…"


@contextmanager
def parquet(path: Path, process: Process) -> Iterator[Write]:
    """Columns of Predicted with fixed types; an answer's fields are one column of JSON text, and how sure each is another."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    names = predicted_columns(process)
    kinds = {"confidence": pyarrow.float64(), "line": pyarrow.int64()}
    schema = pyarrow.schema([pyarrow.field(name, kinds.get(name, pyarrow.string()), nullable=name == "fields") for name in names])
    with ParquetWriter(path, schema) as table:

        def write(rows: Sequence[Predicted]) -> None:
            if rows:
                table.write_table(pyarrow.Table.from_pylist([_as_texts(as_dict(row, names)) for row in rows], schema))

        yield write


def _as_texts(row: dict[str, Any]) -> dict[str, Any]:
    """What is text in Parquet as text; what is not there stays away."""
    return row | {name: whole_text(as_text_cell(row[name])) for name in ("record_id", "output", "fields") if row.get(name) is not None}


WRITERS: dict[str, Callable[[Path, Process], AbstractContextManager[Write]]] = {
    "jsonl": json_lines,
    "csv": in_columns(TABLES["csv"]),
    "parquet": parquet,
    "xlsx": in_columns(TABLES["xlsx"]),
}


def safe_cell(value: Any) -> str | int | float:
    """A CSV cell: numbers stay numbers, objects are JSON, and no text begins as a formula does.

    Formulas begin with = + - @ in any width, also behind blanks and invisible characters. Tabs and line breaks at the beginning count as
    such, too: some programs drop them, and some take them for the start of a new cell.
    """
    if isinstance(value, str) and value[:1].isalnum() and value.isprintable():
        return value  # as nearly all are, told at once
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    text = CONTROL.sub("\N{REPLACEMENT CHARACTER}", as_text_cell(value))
    begins = re.sub(rf"^[{INVISIBLE}]+", "", text)[:1]
    return f"'{text}" if unicodedata.normalize("NFKC", begins) in FORMULA or text[:1] in ("\t", "\r", "\n") else text


def as_text_cell(value: Any) -> str:
    """Text as it is, nothing as the empty text, all else as JSON."""
    return value if isinstance(value, str) else "" if value is None else as_json(value)


def whole_text(text: str) -> str:
    """Text that can be UTF-8: half a surrogate pair becomes a question mark."""
    return text.encode("utf-8", "replace").decode()
