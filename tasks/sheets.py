"""Sheets: XLSX and Parquet files -> rows by column name, one at a time."""

import json
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from tasks.readers import Reader

    Rows = Iterator[tuple[int, Mapping[str, Any] | str | None, bytes]]

MAX_UNPACKED_BYTES = 2 * 2**30  # of an XLSX, which is a zip
BATCH_ROWS = 256  # of a Parquet file in memory; a cell may be a megabyte
FORMULA_ERRORS = ("#N/A", "#REF!", "#VALUE!", "#DIV/0!", "#NAME?", "#NULL!", "#NUM!")

T = TypeVar("T")


def read_xlsx(reader: "Reader") -> "Rows":
    """Rows of a sheet as text, as a CSV would hold them; formulas are never computed, their stored result is read.

    Raises:
        ValueError: no workbook, no such sheet, or unpacked it would be too large.
    """
    import openpyxl

    _check_size(reader)
    with warnings.catch_warnings(), reader.path.open("rb") as stream:  # by its name openpyxl would refuse one that ends in .csv
        warnings.simplefilter("ignore")  # openpyxl tells of styles and menus that it leaves out
        try:
            book = openpyxl.load_workbook(stream, read_only=True, data_only=True)
        except Exception as error:
            raise _unreadable(reader, "workbook", error) from None
        try:
            yield from _sheet_rows(reader, book)
        finally:
            book.close()


def _unreadable(reader: "Reader", kind: str, error: Exception) -> ValueError:
    """One clear error for all that a library may stumble over; its own message may hold a value and is not told."""
    return ValueError(f"{reader.name} is no {kind} that can be read: {type(error).__name__}")


def _guarded(reader: "Reader", kind: str, found: Iterator[T]) -> Iterator[T]:
    """What a library reads, one by one; a file may break off anywhere.

    Raises:
        ValueError: the library cannot go on.
    """
    try:
        yield from found
    except Exception as error:
        raise _unreadable(reader, kind, error) from None


def _check_size(reader: "Reader") -> None:
    try:
        with zipfile.ZipFile(reader.path) as archive:
            size = sum(info.file_size for info in archive.infolist())
    except zipfile.BadZipFile:
        raise ValueError(f"{reader.name} is no whole .xlsx file") from None
    if size > MAX_UNPACKED_BYTES:
        raise ValueError(f"{reader.name} unpacks to {size} bytes, at most {MAX_UNPACKED_BYTES} are read; save it as CSV")


def _sheet_rows(reader: "Reader", book: Any) -> "Rows":
    sheets = {sheet.title: sheet for sheet in book.worksheets}
    wanted = reader.process.records.sheet or next(iter(sheets), "")
    if wanted not in sheets:
        raise ValueError(f"{reader.name} has no sheet{f' {wanted!r}' if wanted else ''}; it has: {', '.join(sheets) or 'none'}")
    sheet = sheets[wanted]
    sheet.reset_dimensions()  # some writers state wrong ones, and rows would be lost
    reader.facts["sheet"] = wanted
    header: list[str] | None = None
    places: dict[str, int] = {}
    for line, cells in enumerate(_guarded(reader, "workbook", sheet.iter_rows(values_only=True)), start=1):
        if not any(cell not in (None, "") for cell in cells):
            yield line, None, b""
        elif header is None:
            header = _names(cells)
            reader.check_header(header)
            places = {name: place for place, name in enumerate(header) if _is_read(reader, name)}
        else:
            row = _sheet_row(cells, len(header), places)
            yield line, row, json.dumps([cell_text(cell) for cell in cells]).encode() if isinstance(row, str) else b""


def _names(cells: tuple[Any, ...]) -> list[str]:
    """Column names; formatted but empty columns at the end are none."""
    names = [cell_text(cell).strip() for cell in cells]
    while names and not names[-1]:
        names.pop()
    return names


def _is_read(reader: "Reader", name: str) -> bool:
    """Whether a column is declared, holds a declared path, or is part of one."""
    paths = (reader.process.records.key, *reader.process.columns)
    return any(name == path or path.startswith(f"{name}.") or name.startswith(f"{path}.") for path in paths)


def _sheet_row(cells: tuple[Any, ...], width: int, places: Mapping[str, int]) -> Mapping[str, Any] | str:
    if any(cell not in (None, "") for cell in cells[width:]):
        return f"cells beyond the {width} columns of the header"
    found = {name: cell_text(cells[place]) for name, place in places.items() if place < len(cells) and cells[place] not in (None, "")}
    if wrong := [name for name, text in found.items() if text in FORMULA_ERRORS]:
        return f"a formula's error in {', '.join(wrong)}"
    return found


def cell_text(cell: Any) -> str:
    """A cell as a person reads it: whole numbers without a tail, days as YYYY-MM-DD."""
    if cell is None:
        return ""
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
        file = parquet.ParquetFile(reader.path)
        names = list(file.schema_arrow.names)
    except Exception as error:
        raise _unreadable(reader, "Parquet file", error) from None
    with file:
        reader.check_header(names)
        batches = file.iter_batches(batch_size=BATCH_ROWS, columns=[name for name in names if _is_read(reader, name)])
        rows = (row for batch in _guarded(reader, "Parquet file", batches) for row in _batch_rows(batch))
        for line, row in enumerate(rows, start=1):
            plain_row = _plain_row(row)
            yield line, plain_row, json.dumps(row, default=repr).encode() if isinstance(plain_row, str) else b""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A value that has no form in Python, such as a day in the year 90,000: what is stored of it, and why."""

    stored: object
    why: str


def _batch_rows(batch: Any) -> list[dict[str, Any]]:
    """The rows of a batch; value by value where one of them cannot be converted."""
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
