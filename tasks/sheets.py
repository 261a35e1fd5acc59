"""Sheets: XLSX and Parquet files -> rows by column name, one at a time."""

import json
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from tasks.encodings import BLOCK_BYTES, KEPT_BYTES, MAX_ROW_BYTES
from tasks.workbooks import Broken, WorkbookError, open_workbook, rows_of, sheet_of, unescaped

if TYPE_CHECKING:
    from tasks.readers import Reader
    from tasks.workbooks import Cells

    Rows = Iterator[tuple[int, Mapping[str, Any] | str | None, bytes]]

BATCH_ROWS = 256  # of a Parquet file in memory; fewer where its cells are large
BATCH_BYTES = 256 * 2**20  # of values in memory
FORMULA_ERRORS = ("#N/A", "#REF!", "#VALUE!", "#DIV/0!", "#NAME?", "#NULL!", "#NUM!")

PAGE_HEADER = re.compile(rb"\x15\x04\x15([\x80-\xff]*[\x00-\x7f])")  # of a dictionary: its type, then how many bytes it unpacks to

T = TypeVar("T")


def read_xlsx(reader: "Reader") -> "Rows":
    """Rows of a sheet as text, as a CSV would hold them; formulas are never computed, their stored result is read.

    Raises:
        ValueError: no workbook, no such sheet, or unpacked it would be too large.
    """
    with warnings.catch_warnings(), reader.path.open("rb") as stream:
        warnings.simplefilter("ignore")  # openpyxl tells of styles and menus that it leaves out
        with _told(reader, "workbook"):
            book = open_workbook(stream)
            reader.facts["sheet"], part = sheet_of(book, reader.process.records.sheet)
        yield from _sheet_rows(reader, _guarded(reader, "workbook", rows_of(book, part)))


def _unreadable(reader: "Reader", kind: str, error: Exception) -> ValueError:
    """One clear error for all that a library may stumble over; its own message may hold a value and is not told."""
    return ValueError(f"{reader.name} is no {kind} that can be read: {type(error).__name__}")


@contextmanager
def _told(reader: "Reader", kind: str) -> Iterator[None]:
    """Whatever a library raises as one clear error."""
    try:
        yield
    except WorkbookError as error:
        raise ValueError(f"{reader.name} {error}") from None
    except Exception as error:
        raise _unreadable(reader, kind, error) from None


def _guarded(reader: "Reader", kind: str, found: Iterator[T]) -> Iterator[T]:
    """What a library reads, one by one; a file may break off anywhere.

    Raises:
        ValueError: the library cannot go on.
    """
    with _told(reader, kind):
        yield from found


def _sheet_rows(reader: "Reader", rows: "Iterator[tuple[int, Cells]]") -> "Rows":
    header: list[str] | None = None
    places: dict[str, int] = {}
    last = 0
    for line, cells in rows:
        yield from ((empty, None, b"") for empty in range(last + 1, line))
        last = line
        if not any(cell not in (None, "") for cell in cells):
            yield line, None, b""
        elif header is None:
            header = _names(cells)
            reader.check_header(header)
            places = {name: place for place, name in enumerate(header) if _is_read(reader, name)}
        else:
            texts = [cell_text(cell) for cell in cells]
            yield line, _sheet_row(cells, texts, len(header), places), _as_it_came(header, texts)


def _names(cells: "Cells") -> list[str]:
    """Column names; formatted but empty columns at the end are none."""
    names = [cell_text(cell).strip() for cell in cells]
    while names and not names[-1]:
        names.pop()
    return names


def _is_read(reader: "Reader", name: str) -> bool:
    """Whether a column is declared, holds a declared path, or is part of one."""
    paths = (reader.process.records.key, *reader.process.columns)
    return any(name == path or path.startswith(f"{name}.") or name.startswith(f"{path}.") for path in paths)


def _as_it_came(header: list[str], texts: list[str]) -> bytes:
    """A row as JSON, as much of it as is kept; a text that many cells share is not written for each of them."""
    kept, left = list[str](), KEPT_BYTES
    for text in texts:
        kept.append(text[:left])
        left -= len(kept[-1])
    return json.dumps(kept if len(kept) > len(header) else dict(zip(header, kept, strict=False))).encode()[:KEPT_BYTES]


def _sheet_row(cells: "Cells", texts: list[str], width: int, places: Mapping[str, int]) -> Mapping[str, Any] | str:
    """The texts of the columns that are read, or why there are none."""
    if any(cell not in (None, "") for cell in cells[width:]):
        return f"cells beyond the {width} columns of the header"
    there = {name: place for name, place in places.items() if place < len(cells) and cells[place] not in (None, "")}
    if wrong := [f"{value.why} in {name}" for name, place in there.items() if isinstance(value := cells[place], Broken)]:
        return "; ".join(wrong)
    found = {name: texts[place] for name, place in there.items()}
    if (size := sum(map(len, found.values()))) > MAX_ROW_BYTES:  # a text that many cells share is stored once
        return f"a row of {size} characters, at most {MAX_ROW_BYTES} are read; its beginning is kept"
    if wrong := [name for name, text in found.items() if text in FORMULA_ERRORS]:
        return f"an error in {', '.join(wrong)}"
    return found


def cell_text(cell: Any) -> str:
    """A cell as a person reads it: whole numbers without a tail, days as YYYY-MM-DD."""
    if cell is None:
        return ""
    if isinstance(cell, str):
        return unescaped(cell)
    if isinstance(cell, Broken):
        return f"({cell.why})"
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, datetime):
        return cell.date().isoformat() if cell.time() == time() else cell.isoformat(sep=" ")
    return cell.isoformat() if isinstance(cell, date | time) else str(cell)


def read_parquet(reader: "Reader") -> "Rows":
    """Rows of a Parquet file, typed as they are there; only declared columns are read.

    Raises:
        ValueError: no Parquet file that can be read.
    """
    from pyarrow import parquet  # type: ignore[import-untyped]

    try:
        file = parquet.ParquetFile(reader.path, pre_buffer=False, buffer_size=BLOCK_BYTES)  # else whole columns lie in memory
        names = list(file.schema_arrow.names)
    except Exception as error:
        raise _unreadable(reader, "Parquet file", error) from None
    with file:
        reader.check_header(names)
        wanted = [name for name in names if _is_read(reader, name)]
        with _told(reader, "Parquet file"):
            size = batch_rows(file, reader.path, wanted)
        batches = file.iter_batches(batch_size=size, columns=wanted)
        rows = (row for batch in _guarded(reader, "Parquet file", batches) for row in _batch_rows(batch))
        for line, row in enumerate(rows, start=1):
            if isinstance(row, Oversize):
                yield line, row.why, row.beginning
                continue
            yield line, _plain_row(row), json.dumps(row, default=repr).encode()[:KEPT_BYTES]


def batch_rows(file: Any, source: Path, names: Collection[str]) -> int:
    """How many rows may be unpacked at once: a value stands once in a dictionary, and again in each row that has it."""
    paths = ((place, file.schema.column(place).path) for place in range(file.metadata.num_columns))
    places = [place for place, path in paths if any(path == name or path.startswith(f"{name}.") for name in names)]
    largest = 1.0
    with source.open("rb") as stream:
        for group in range(file.metadata.num_row_groups):
            for chunk in (file.metadata.row_group(group).column(place) for place in places):
                mean = chunk.total_uncompressed_size / max(chunk.num_values, 1)
                largest = max(largest, mean, _dictionary_bytes(stream, chunk))
    return max(1, min(BATCH_ROWS, int(BATCH_BYTES / largest)))


def _dictionary_bytes(stream: BinaryIO, chunk: Any) -> int:
    """What the dictionary of a column chunk unpacks to, by its page's header: two numbers in Thrift's compact form."""
    if not chunk.has_dictionary_page or chunk.dictionary_page_offset is None:
        return 0
    stream.seek(chunk.dictionary_page_offset)
    found = PAGE_HEADER.match(stream.read(16))
    if not found:
        return int(chunk.total_uncompressed_size)
    size: int = sum((byte & 127) << 7 * place for place, byte in enumerate(found[1]))
    return size >> 1  # a signed number, in zigzag


@dataclass(frozen=True, slots=True)
class Oversize:
    """A row that is too large to be read, and its beginning."""

    why: str
    beginning: bytes


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A value that has no form in Python, such as a day in the year 90,000: what is stored of it, and why."""

    stored: object
    why: str


def _batch_rows(batch: Any) -> Iterator[dict[str, Any] | Oversize]:
    """The rows of a batch; one by one where they are large, and value by value where one of them cannot be converted."""
    if batch.nbytes <= MAX_ROW_BYTES:
        yield from _converted_rows(batch)
        return
    for place in range(batch.num_rows):
        row = batch.slice(place, 1)
        if row.nbytes <= MAX_ROW_BYTES:
            yield from _converted_rows(row)
        else:
            why = f"a row of {row.nbytes} bytes, at most {MAX_ROW_BYTES} are read; its beginning is kept"
            yield Oversize(why, _beginning(row))


def _beginning(row: Any) -> bytes:
    """As much of a large row as is kept: each of its columns as text, cut."""
    texts = {name: str(_converted(column[0])) for name, column in zip(row.schema.names, row.columns, strict=True)}
    return json.dumps({name: text[: KEPT_BYTES // len(texts)] for name, text in texts.items()}, ensure_ascii=False).encode(errors="replace")


def _converted_rows(batch: Any) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
        return rows
    except Exception:  # of the conversion's many libraries: OverflowError, UnknownTimeZoneError, UnicodeDecodeError
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        return [{name: _converted(column[place]) for name, column in columns.items()} for place in range(batch.num_rows)]


def _converted(cell: Any) -> Any:
    try:
        return cell.as_py()
    except Exception as error:
        stored = cell.as_buffer().to_pybytes() if hasattr(cell, "as_buffer") else getattr(cell, "value", None)
        return Unreadable(stored, type(error).__name__)


def _plain_row(row: Mapping[str, Any]) -> Mapping[str, Any] | str:
    if wrong := [f"{name} that cannot be read: {value.why}" for name, value in row.items() if isinstance(value, Unreadable)]:
        return f"a value of {'; of '.join(wrong)}"
    try:
        return {name: plain(value) for name, value in row.items()}
    except TypeError as error:
        return str(error)


def plain(value: Any) -> Any:
    """A value as JSON has it; what is no number is missing.

    Raises:
        TypeError: bytes, or another type without a plain form.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() and value.tzinfo is None else value.isoformat()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    raise TypeError(f"a value of type {type(value).__name__}, which is no text, number or list")
