"""Sinks: predictions and dead letters, row by row -> files; memory stays flat however many rows there are.

JSON Lines and Parquet keep every value as it is. CSV is for people: UTF-8 with a byte order mark (without it Excel reads Chinese as
Latin-1), CRLF, every text quoted, and what a spreadsheet would run as a formula is led by an apostrophe.
"""

import csv
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.process import Process

INVISIBLE = r"\s\x00-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff"  # what a spreadsheet may skip before it looks for a formula
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
FORMULA = frozenset("=+-@")


@dataclass(frozen=True, slots=True)
class Predicted:
    """One row of predictions."""

    record_id: str
    output: Any  # a label, a dict of fields, or a text
    confidence: float  # 0-1
    model_version: str
    line: int  # of the source, 1-based


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that got no output: where it stood, which step gave it up and why, and what it was."""

    record_id: str
    line: int
    stage: str  # reading, inputs, prediction or writing
    code: str  # one of tasks.reasons
    reason: str  # words without values
    attempt: int  # how often it was asked about, this time included
    source: str  # the file's name or key, with the digest of its bytes: together with the line, where the record came from
    source_sha256: str
    content: str  # the line as it came, or the record's values as JSON


Write = Callable[[Sequence[Any]], None]


def as_dict(row: Any) -> dict[str, Any]:
    """The row by column name; dataclasses.asdict would copy every value in it."""
    return {name: getattr(row, name) for name in row.__slots__}


def as_json(value: Any) -> str:
    """Compact JSON; half a surrogate pair is escaped by the file that it is written to."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


@contextmanager
def json_lines(path: Path, process: Process | None = None) -> Iterator[Write]:
    """One JSON object a line, in UTF-8."""
    # A lone surrogate cannot be UTF-8; backslashreplace writes it as \udxxx, which is what JSON calls it.
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
        yield lambda rows: stream.writelines(as_json(as_dict(row)) + "\n" for row in rows)


@contextmanager
def comma_separated(path: Path, process: Process) -> Iterator[Write]:
    """Columns of Predicted; for fields also one column `output.<field>` each. Objects and lists are JSON."""
    fields = list(process.output.fields or {})
    with path.open("w", encoding="utf-8-sig", errors="replace", newline="") as stream:
        sheet = csv.writer(stream, quoting=csv.QUOTE_NONNUMERIC)
        sheet.writerow([*Predicted.__slots__, *(safe_cell(f"output.{name}") for name in fields)])

        def write(rows: Sequence[Predicted]) -> None:
            for row in rows:
                cells = [row.record_id, row.output, row.confidence, row.model_version, row.line]
                sheet.writerow([safe_cell(value) for value in (*cells, *(row.output.get(name) for name in fields))])

        yield write


@contextmanager
def parquet(path: Path, process: Process) -> Iterator[Write]:
    """Columns of Predicted with fixed types; fields are one column of JSON text."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    kinds = (pyarrow.string(), pyarrow.string(), pyarrow.float64(), pyarrow.string(), pyarrow.int64())
    schema = pyarrow.schema([pyarrow.field(name, kind, nullable=False) for name, kind in zip(Predicted.__slots__, kinds, strict=True)])
    with ParquetWriter(path, schema) as table:

        def write(rows: Sequence[Predicted]) -> None:
            if rows:
                texts = [{"record_id": whole_text(row.record_id), "output": whole_text(as_text_cell(row.output))} for row in rows]
                plain = [as_dict(row) | text for row, text in zip(rows, texts, strict=True)]
                table.write_table(pyarrow.Table.from_pylist(plain, schema))

        yield write


WRITERS: dict[str, Callable[[Path, Process], AbstractContextManager[Write]]] = {
    "jsonl": json_lines,
    "csv": comma_separated,
    "parquet": parquet,
}


def safe_cell(value: Any) -> str | int | float:
    """A CSV cell: numbers stay numbers, objects are JSON, and no text begins as a formula does.

    Formulas begin with = + - @ in any width, also behind blanks and invisible characters. Tabs and line breaks at the beginning count as
    such, too: some programs drop them, and some take them for the start of a new cell.
    """
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
