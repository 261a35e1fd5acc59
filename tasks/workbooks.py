"""Workbooks: an XLSX file -> the rows of one sheet with their numbers, one at a time; how large it may get is judged before it is unpacked.

openpyxl's own reading of a sheet leaves out rows whose number stands twice, fills up to whatever number a row claims, and holds a row
of any size; so its parser is fed here.
"""

import io
import re
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openpyxl.reader.excel import ExcelReader

MAX_UNPACKED_BYTES = 2 * 2**30  # of all parts; sheets are streamed
MAX_STRINGS_BYTES = 128 * 2**20  # of the texts that cells share, which are held in memory
MAX_PART_BYTES = 16 * 2**20  # of any other part, which takes many times as much when it is parsed
MAX_ROW_BYTES = 16 * 2**20  # of one row as XML
# A text that is stored once may stand in every cell. So small a file may hold so many characters; of a larger one, so many for each byte:
FREE_CHARACTERS, CHARACTERS_A_BYTE = 256 * 2**20, 1000
LAST_ROW, LAST_COLUMN = 1_048_576, 16_384  # that a sheet can have
STRICT = b"http://purl.oclc.org/ooxml/"  # begins the names of that form
ESCAPED = re.compile("_x([0-9A-Fa-f]{4})_")  # how a character that XML has not is written

Cells = tuple[Any, ...]


class WorkbookError(ValueError):
    """A workbook cannot be read; the message says why, without values and without its name."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A cell that has no value, though one belongs there."""

    why: str


@dataclass(frozen=True, slots=True)
class Workbook:
    """All of a workbook but its sheets."""

    package: "ExcelReader"
    strings: list[str]  # that cells share
    days: set[int]  # styles of cells whose numbers are days
    spans: set[int]  # styles of cells whose numbers are lengths of time
    size: int  # bytes of the file


def open_workbook(stream: IO[bytes]) -> Workbook:
    """What is needed to read a sheet.

    Raises:
        WorkbookError: it would take too much room.
        Exception: whatever openpyxl and zipfile raise for what is no workbook.
    """
    from openpyxl.reader.excel import ExcelReader
    from openpyxl.xml.constants import ARC_STYLE, SHARED_STRINGS

    check_sizes(stream)
    size = stream.seek(0, io.SEEK_END)
    package = ExcelReader(stream, read_only=True, data_only=True, keep_links=False)
    package.read_manifest()
    package.read_workbook()
    shared = package.package.find(SHARED_STRINGS)
    strings = [_text_of(item) for item in _elements(package, shared.PartName[1:], {"si"})] if shared else []
    days, spans = _times(package, ARC_STYLE) if ARC_STYLE in package.valid_files else (set[int](), set[int]())
    return Workbook(package, strings, days, spans, size)


def _elements(package: "ExcelReader", part: str, names: Collection[str]) -> Iterator[Any]:
    """The elements of a part by their plain names, one at a time; openpyxl makes an object of each, at fifty times the cost."""
    from openpyxl.xml.functions import iterparse

    with package.archive.open(part) as stream:
        events = iterparse(stream, events=("start", "end"))
        _, root = next(events)
        for event, element in events:
            if event == "end" and element.tag.rpartition("}")[2] in names:
                yield element
                root.clear()


def _text_of(item: Any) -> str:
    """The text of a shared string: plain, or in pieces each of its own style; how it is pronounced is left out."""
    from openpyxl.xml.constants import SHEET_MAIN_NS

    pieces = [item, *item.findall(f"{{{SHEET_MAIN_NS}}}r")]
    return "".join(piece.findtext(f"{{{SHEET_MAIN_NS}}}t") or "" for piece in pieces)


def _times(package: "ExcelReader", part: str) -> tuple[set[int], set[int]]:
    """Which styles show a number as a day or a time of day, and which of these as a length of time."""
    from openpyxl.styles.numbers import builtin_format_code, is_date_format, is_timedelta_format

    days, spans, codes = set[int](), set[int](), dict[int, str]()
    for element in _elements(package, part, {"numFmts", "cellXfs"}):
        if element.tag.endswith("numFmts"):
            codes = {int(one.get("numFmtId", 0)): one.get("formatCode", "") for one in element}
            continue
        shown = [int(style.get("numFmtId", 0)) for style in element]
        found = {number: codes.get(number) or builtin_format_code(number) or "" for number in set(shown)}
        dated = {number for number, code in found.items() if is_date_format(code)}
        lasting = {number for number in dated if is_timedelta_format(found[number])}
        days = {place for place, number in enumerate(shown) if number in dated}
        spans = {place for place, number in enumerate(shown) if number in lasting}
    return days, spans


def check_sizes(stream: IO[bytes]) -> None:
    """That what is held in memory is small, by what the zip states; zipfile never unpacks more than that.

    Raises:
        WorkbookError: it is not, or this is no zip.
    """
    try:
        with zipfile.ZipFile(stream) as archive:
            parts = archive.infolist()
    except Exception:
        raise WorkbookError("is no whole .xlsx file") from None
    if (size := sum(part.file_size for part in parts)) > MAX_UNPACKED_BYTES:
        raise WorkbookError(f"unpacks to {size} bytes, at most {MAX_UNPACKED_BYTES} are read; save it as CSV")
    for part in parts:
        most = _most_bytes(part.filename)
        if part.file_size > most:
            raise WorkbookError(f"has a part that unpacks to {part.file_size} bytes, at most {most} are read; save it as CSV")


def _most_bytes(part: str) -> int:
    """How large a part may be; pictures and the like are never unpacked."""
    if "/worksheets/" in part or not part.lower().endswith((".xml", ".rels")):
        return MAX_UNPACKED_BYTES
    return MAX_STRINGS_BYTES if part.endswith("sharedStrings.xml") else MAX_PART_BYTES


def sheet_of(book: Workbook, wanted: str | None) -> tuple[str, str]:
    """Name and part of the wanted sheet, else of the first one that is not hidden.

    Raises:
        WorkbookError: there is none.
    """
    found = {sheet.name: (rel.target, sheet.state) for sheet, rel in book.package.parser.find_sheets() if _is_table(book, rel)}
    shown = [name for name, (_, state) in found.items() if state == "visible"]
    name = wanted or next(iter([*shown, *found]), "")
    if name not in found:
        raise WorkbookError(f"has no sheet{f' {name!r}' if name else ''}; it has: {', '.join(found) or 'none'}")
    return name, found[name][0]


def _is_table(book: Workbook, rel: Any) -> bool:
    return rel.target in book.package.valid_files and "chartsheet" not in rel.Type


def rows_of(book: Workbook, part: str) -> Iterator[tuple[int, Cells]]:
    """Number and cells of each row that is there; a row that is empty may not be.

    Raises:
        WorkbookError: the sheet is written in another form, a row or all of them are too large, or a number of a row or cell is none or
            stands twice.
        Exception: whatever the parser raises for a sheet that breaks off.
    """
    with book.package.archive.open(part) as stream:
        if STRICT in stream.peek(4096):
            raise WorkbookError("is saved as Strict Open XML, of which nothing would be seen; save it as a usual .xlsx")
        gauge, last, left = _Gauge(stream), 0, max(FREE_CHARACTERS, CHARACTERS_A_BYTE * book.size)
        parser = _parser_of(book, gauge)
        for number, cells in parser.parse():
            gauge.since = 0
            parser.row_dimensions.clear()  # it would keep the height of each row
            if not last < number <= LAST_ROW:
                raise WorkbookError(f"has a row numbered {number} after row {last}; save it anew, or as CSV")
            last, row = number, _in_places(number, cells)
            if (left := left - sum(len(value) for value in row if isinstance(value, str))) < 0:
                raise WorkbookError(f"repeats shared texts until it is {CHARACTERS_A_BYTE} times as large as its file; save it as CSV")
            yield number, row


def _in_places(number: int, cells: list[dict[str, Any]]) -> Cells:
    """A row's values by their columns, nothing where there is no cell."""
    row: list[Any] = [None] * max((cell["column"] for cell in cells), default=0)
    taken = set()
    for cell in cells:
        if cell["column"] in taken:
            raise WorkbookError(f"has one cell twice in row {number}; save it anew, or as CSV")
        taken.add(cell["column"])
        row[cell["column"] - 1] = Broken("an error") if cell["data_type"] == "e" else cell["value"]
    return tuple(row)


class _Gauge(io.RawIOBase):
    """A stream that ends in an error when too much is read from it since the last row."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.since = stream, 0

    def read(self, size: int = -1) -> bytes:
        block = self.stream.read(size)
        self.since += len(block)
        if self.since > MAX_ROW_BYTES:
            raise WorkbookError(f"has a row of more than {MAX_ROW_BYTES} bytes; save it as CSV")
        return block


def _parser_of(book: Workbook, stream: _Gauge) -> Any:
    """openpyxl's parser of a sheet, which also tells of formulas whose result was never stored."""
    from openpyxl.worksheet._reader import FORMULA_TAG, WorkSheetParser

    class Parser(WorkSheetParser):  # type: ignore[misc]
        def parse_cell(self, element: Any) -> dict[str, Any]:
            cell: dict[str, Any] = super().parse_cell(element)
            if not 0 < cell["column"] <= LAST_COLUMN:
                raise WorkbookError(f"has a cell in column {cell['column']}, a sheet has {LAST_COLUMN} at most")
            if cell["value"] is None and element.get("t") != "str" and element.find(FORMULA_TAG) is not None:
                cell["value"] = Broken("a formula without its result, which its program stores when it saves the file")
            return cell

    return Parser(
        stream,
        book.strings,
        data_only=True,
        epoch=book.package.wb.epoch,
        date_formats=book.days,
        timedelta_formats=book.spans,
    )


def unescaped(text: str) -> str:
    """A text with the characters that XML has not: Excel writes a carriage return as _x000D_."""
    return ESCAPED.sub(lambda code: chr(int(code[1], 16)), text) if "_x" in text else text
