"""Delimited: a CSV file -> rows by column name, one at a time; one broken quote costs one row."""

import csv
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from tasks.encodings import (
    KEPT_BYTES,
    MAX_ROW_BYTES,
    Encoding,
    UndecodableError,
    byte_lines,
    codec_for,
    encoding_of,
    text_codec,
    text_of,
)

if TYPE_CHECKING:
    from tasks.readers import Reader

    Row = Mapping[str, Any] | str | None
    Rows = Iterator[tuple[int, Row, bytes]]

LOOK_AHEAD = 1_000_000  # lines that one quoted cell may run over
MANY_LINES = 1_000  # from which a cell is doubted when most of its lines are rows by themselves
DELIMITERS = ",;\t|"


def take_wide_cells() -> None:
    """Let a cell be as large as a row may be, in the whole interpreter; 131,072 characters otherwise."""
    csv.field_size_limit(2 * MAX_ROW_BYTES)


def read_csv(reader: "Reader") -> "Rows":
    """Rows of a table of text; values stay text."""
    encoding = encoding_of(reader.path, reader.process.records.encoding)
    reader.know(encoding)
    take_wide_cells()
    lines = _Lines(byte_lines(reader.path, encoding), encoding)
    header: list[str] = []
    for number, raw, size in lines:
        if not raw.strip():
            yield number, None, raw
            continue
        if not header:
            header = _header(reader, lines, raw)
            continue
        yield number, *_cells(lines, raw, size, header, reader.facts["delimiter"])


class _Lines:
    """Physical lines that can be looked at ahead and given back."""

    def __init__(self, lines: Iterator[tuple[bytes, int]], encoding: Encoding) -> None:
        self.lines, self.encoding, self.number = lines, encoding, 0
        self.ahead: deque[tuple[bytes, int]] = deque()
        self.doubtful = 0  # the line up to which a quote was followed in vain: none there is followed again, or time would be squared

    def __iter__(self) -> Iterator[tuple[int, bytes, int]]:
        while (line := self.peek(0)) is not None:
            self.take(1)
            yield self.number, *line

    def peek(self, place: int) -> tuple[bytes, int] | None:
        while len(self.ahead) <= place:
            line = next(self.lines, None)
            if line is None:
                return None
            self.ahead.append(line)
        return self.ahead[place]

    def take(self, count: int) -> None:
        self.number += count
        for _ in range(count):
            self.ahead.popleft()

    def text(self, raw: bytes) -> str:
        return raw.decode(codec_for(raw, self.encoding) or text_codec(self.encoding), errors="surrogateescape")


class _Growing:
    """The lines of one row: its first, and those after it for as long as the parser asks, because a quote is open."""

    def __init__(self, lines: _Lines, first: bytes) -> None:
        self.lines, self.parts, self.ended = lines, [first], False

    def __iter__(self) -> Iterator[str]:
        size = len(self.parts[0])
        yield self.lines.text(self.parts[0])
        while len(self.parts) <= LOOK_AHEAD and size < MAX_ROW_BYTES and self.lines.number > self.lines.doubtful:
            more = self.lines.peek(len(self.parts) - 1)
            if more is None or more[1] > MAX_ROW_BYTES:
                break
            self.parts.append(more[0])
            size += len(more[0])
            yield self.lines.text(more[0])
        self.ended = True


def _header(reader: "Reader", lines: _Lines, raw: bytes) -> list[str]:
    """The column names; the delimiter is the one under which most declared columns are found."""
    text, declared = lines.text(raw), {reader.process.records.key, *reader.process.columns}
    tables = {mark: next(csv.reader([text], delimiter=mark), []) for mark in DELIMITERS}
    mark = max(DELIMITERS, key=lambda mark: len(declared.intersection(name.strip() for name in tables[mark])))
    reader.facts["delimiter"] = mark
    grown = _Growing(lines, raw)
    whole = _parsed(grown, mark)
    if whole:
        lines.take(len(grown.parts) - 1)  # a name may run over line ends, too
    header = [name.strip() for name in whole or tables[mark]]
    reader.check_header(header)
    return header


def _cells(lines: _Lines, raw: bytes, size: int, header: list[str], mark: str) -> "tuple[Row, bytes]":
    """A row's cells by name, or why it is none; a quoted cell may run over line ends."""
    if size > MAX_ROW_BYTES:
        return f"a row of {size} bytes, at most {MAX_ROW_BYTES} are read; its beginning is kept", raw[:KEPT_BYTES]
    grown = _Growing(lines, raw)
    row = _parsed(grown, mark)
    if row is None or (len(grown.parts) > 1 and not _is_one_row(grown, row, header, mark)):
        return _without_end(grown, row, header, mark)
    lines.take(len(grown.parts) - 1)
    content = b"".join(grown.parts).rstrip(b"\r\n")
    if not any(cell.strip() for cell in row):
        return None, content
    if len(row) != len(header):
        return f"{len(row)} cells, the header has {len(header)}", content
    try:
        for part in grown.parts:
            text_of(part, lines.encoding)
    except UndecodableError as reason:
        return str(reason), content
    return {name: cell for name, cell in zip(header, row, strict=True) if cell}, content


def _is_one_row(grown: _Growing, row: list[str], header: list[str], mark: str) -> bool:
    """Whether lines that were read as one row are one: not where a stray quote has swallowed very many that are rows by themselves."""
    if len(row) != len(header):
        return False
    if len(grown.parts) <= MANY_LINES:
        return True
    return 2 * sum(_is_row_alone(grown.lines, part, header, mark) for part in grown.parts[1:]) <= len(grown.parts)


def _without_end(grown: _Growing, row: list[str] | None, header: list[str], mark: str) -> tuple[str, bytes]:
    """Why a row is none whose quote is never closed, or closes only within a later row, and its content.

    The lines after it up to the next that is a row by itself belong to it: one quote costs one row, and no row is lost.
    """
    lines = grown.lines
    end = lines.number + len(grown.parts) - 1
    if row is None and not grown.ended:
        end -= 1  # the quote was found wrong in this line, in which another row may begin
    lines.doubtful = max(lines.doubtful, end if row is None else end - 1)
    rest = _rest(grown, max(end, lines.doubtful if grown.ended else 0), header, mark)
    content = b"".join([grown.parts[0], *rest]).rstrip(b"\r\n")
    if row is not None and len(row) != len(header) and lines.number >= end:
        return f"{len(row)} cells, the header has {len(header)}", content
    return f"a quote that is not closed in its row{', with the lines after it that are no rows' if rest else ''}", content


def _rest(grown: _Growing, end: int, header: list[str], mark: str) -> list[bytes]:
    """Take the lines up to `end` that are no rows by themselves, and return the first MiB of them.

    Where the quote was still open when the limits of a row were reached, it may be open in the lines after `end`, too.
    """
    lines, kept, size = grown.lines, list[bytes](), len(grown.parts[0])
    while (line := lines.peek(0)) is not None:
        raw, bytes_there = line
        if lines.number >= end and (not grown.ended or b'"' in raw or bytes_there > MAX_ROW_BYTES):
            break
        if _is_row_alone(lines, raw, header, mark):
            break
        lines.take(1)
        size += len(raw)
        if size <= KEPT_BYTES:
            kept.append(raw)
    return kept


def _is_row_alone(lines: _Lines, raw: bytes, header: list[str], mark: str) -> bool:
    """Whether a line is a row by itself, with quotes around whole cells only."""
    if b'"' in raw and not _quotes_around_cells(mark).fullmatch(lines.text(raw)):
        return False
    row = _parsed([lines.text(raw)], mark)
    return row is not None and len(row) == len(header)


@cache
def _quotes_around_cells(mark: str) -> re.Pattern[str]:
    cell = rf'(?:"[^"]*+(?:""[^"]*+)*+"|[^"{re.escape(mark)}\r\n]*+)'
    return re.compile(rf"{cell}(?:{re.escape(mark)}{cell})*[\r\n]*")


def _parsed(texts: Iterable[str], mark: str) -> list[str] | None:
    """The cells of the first row; None when a quote stands within a cell, or is open when the texts end."""
    try:
        return next(csv.reader(texts, delimiter=mark, strict=True), None)
    except csv.Error:
        return None
