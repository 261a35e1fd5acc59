"""Readers: a JSONL, CSV, Parquet or XLSX file -> records one by one; a row that cannot be read is rejected, with what came and why.

Memory is flat but for one row. Rows in = records + rejected; blank lines are counted and are no rows.
"""

import csv
import hashlib
import itertools
import json
import math
import re
import sys
import unicodedata
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tasks.artifacts import file_digest
from tasks.encodings import KEPT_BYTES, MAX_ROW_BYTES, Encoding, byte_lines, encoding_of, text_codec
from tasks.process import Process
from tasks.records import Record, Rejected, lookup
from tasks.sheets import read_parquet, read_xlsx

MAX_DEPTH = 64  # of objects within objects
TOO_DEEP = f"objects within objects, more than {MAX_DEPTH} deep"
LOOK_AHEAD = 1_000_000  # lines that one quoted cell may run over
MANY_LINES = 1_000  # from which a cell is doubted when most of its lines are rows by themselves
READABLE = "the row can be read"  # what a rejected row failed, in the place of an expectation
DELIMITERS = ",;\t|"
TOO_COARSE = 2.0**53  # from which two whole numbers may be one float
LABELLED_WITHIN = 100  # records that are looked at to see whether a file carries outputs

Row = Mapping[str, Any] | str | None  # values by name, or the reason why they cannot be read, or nothing for a blank line
Rows = Iterator[tuple[int, Row, bytes]]  # with the line, 1-based, and the bytes that came


class UnreadableRowError(ValueError):
    """A row cannot be read; the message is the reason, without values."""


class Reader:
    """One file, read once.

    Args:
        path: the file.
        name: how people know it, such as its key in the store.
        split: "validation" or "test" when the file is declared as such.
        labelled: whether the columns of the output must be there.

    Raises, while it is read:
        FileNotFoundError: no such file.
        ValueError: the file as a whole cannot be read, or lacks a declared column; the message names it.
    """

    def __init__(self, path: Path, name: str, process: Process, split: str = "", labelled: bool = True) -> None:
        self.path, self.name, self.process, self.split, self.labelled = path, name, process, split, labelled
        self.counts = {"records": 0, "blank": 0, "rejected": 0}
        self.facts: dict[str, Any] = {"encoding": None}
        self.objects = {path for path in process.columns if process.column(path).type == "object"}

    def __iter__(self) -> Iterator[Record | Rejected]:
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.process.name}: {self.path} does not exist; declared in records.source")
        self.facts["format"] = format_of(self.path)
        for line, row, content in READERS[self.facts["format"]](self):
            if row is None:
                self.counts["blank"] += 1
                continue
            found = self._record(line, row) if isinstance(row, Mapping) else row
            if isinstance(found, Record):
                self.counts["records"] += 1
                yield found
            else:
                self.counts["rejected"] += 1
                content = content or json.dumps(row, default=str).encode()
                yield Rejected(f"{self.name}:{line}", self.name, line, READABLE, found, self._content(content))

    @property
    def report(self) -> dict[str, Any]:
        """What was found; whole after the last row."""
        counts = {
            "rows": self.counts["records"] + self.counts["rejected"],
            "blank": self.counts["blank"],
            "rejected": self.counts["rejected"],
        }
        return {"name": self.name, "split": self.split, "sha256": file_digest(self.path), **self.facts, **counts}

    def check_header(self, header: Sequence[str]) -> None:
        """That the names of a table's columns are whole and all there.

        Raises:
            ValueError: a blank or doubled name, or a declared column is missing.
        """
        if blank := [str(place + 1) for place, name in enumerate(header) if not name]:
            raise ValueError(f"{self.name}: column {', '.join(blank[:5])} has no name; give every column one name in the first row")
        process = self.process
        if doubled := next((name for name in header if header.count(name) > 1), None) if len(set(header)) < len(header) else None:
            places = ", ".join([str(place + 1) for place, name in enumerate(header) if name == doubled][:5])
            known = "".join(f", {name}" for name in alike([doubled], process))
            raise ValueError(f"{self.name}: columns {places} have one name{known}; give each its own in the first row")
        needed = {**process.input_columns, **(process.output_columns if self.labelled else {})}
        missing = [path for path, column in needed.items() if not column.optional and not _stands_in(header, path)]
        if missing:
            remedy = "" if alike(header, process) else "; the first row must hold their names"
            raise ValueError(f"{self.name}: no column {', '.join(missing)}; {columns_told(header, process)}{remedy}")

    def _record(self, line: int, row: Mapping[str, Any]) -> Record | str:
        """The record of a row, or the reason why it is none."""
        values = {path: value for path in self.process.columns if (value := self._value(row, path)) is not None}
        try:
            content, id = plain_content(values), self._id(row)
        except UnreadableRowError as reason:
            return str(reason)
        if id:
            return Record(id, values, self.name, line, (), self.split)
        made = f"sha256-{hashlib.sha256(content).hexdigest()[:24]}"
        return Record(made, values, self.name, line, (f"{self.process.records.key}: missing, made from the content",), self.split)

    def _id(self, row: Mapping[str, Any]) -> str:
        """The id of a row, empty when it has none; "3" for 3.0, as pandas writes whole numbers among which some are missing.

        Raises:
            UnreadableRowError: it is no text or whole number, or holds what no name of a record may hold.
        """
        name = self.process.records.key
        key = lookup(row, name)
        if isinstance(key, float) and abs(key) >= TOO_COARSE:
            raise UnreadableRowError(f"{name} is a number with a point and too large to be exact")
        if isinstance(key, float) and key.is_integer():
            key = int(key)
        if isinstance(key, bool | float | list | dict):
            raise UnreadableRowError(f"{name} is neither a text nor a whole number")
        id = str(key if key is not None else "").strip()
        if not id.isprintable() and any(unicodedata.category(letter) in ("Cc", "Cs") for letter in id):
            raise UnreadableRowError(f"{name} holds half of a surrogate pair or a control character")
        return id

    def _value(self, row: Mapping[str, Any], path: str) -> Any:
        """The value at a path; in a table, an object is the columns that begin with its path."""
        value = lookup(row, path)
        if value is None and path in self.objects:
            value = {name.removeprefix(f"{path}."): inner for name, inner in row.items() if name.startswith(f"{path}.")} or None
        return value

    def _content(self, content: bytes) -> str:
        encoding = self.facts["encoding"] or "utf-8"
        try:
            text = content.decode(text_codec(Encoding(encoding, "")))
            text.encode()  # UTF-7 gives halves of surrogate pairs
        except UnicodeError:
            return content.decode("latin-1")
        return text


def columns_told(names: Collection[str], process: Process) -> str:
    """How many columns a file has, and those like declared ones. Other names are not told: without a header, they are values."""
    known = alike(names, process)
    return f"columns found: {len(names)}, " + (f"like declared ones: {', '.join(known[:50])}" if known else "none like a declared one")


def alike(names: Iterable[str], process: Process) -> list[str]:
    """The names that are a declared column's but for case and blanks."""
    declared = {_spelling(path) for path in (process.records.key, *process.columns)}
    return [name[:64] for name in names if _spelling(name) in declared]


def _spelling(name: str) -> str:
    return "".join(name.split()).casefold()


def _stands_in(header: Sequence[str], path: str) -> bool:
    """Whether a table's columns hold a path: itself, an object that it is in, or its own parts."""
    return any(name == path or path.startswith(f"{name}.") or name.startswith(f"{path}.") for name in header)


def _depth_over(value: Any, left: int) -> bool:
    if not isinstance(value, Mapping | list):
        return False
    inner = value.values() if isinstance(value, Mapping) else value
    return left < 0 or any(_depth_over(element, left - 1) for element in inner)


def format_of(path: Path) -> str:
    """The format of a file, by its first bytes, else by its name's end.

    Raises:
        ValueError: it is empty, or of a format that is not read.
    """
    with path.open("rb") as stream:
        start = stream.read(4096)
    if not start:
        raise ValueError(f"{path.name} is empty")
    if start.startswith(b"PAR1"):
        return "parquet"
    if start.startswith(b"PK\x03\x04"):
        return "xlsx"
    if start.startswith((b"\xd0\xcf\x11\xe0", b"\x1f\x8b")):
        raise ValueError(f"{path.name} is an old .xls or a packed file; save it as .xlsx, .csv or .jsonl")
    ends = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "csv", ".txt": "csv"}
    ends |= {".parquet": "parquet", ".xlsx": "xlsx"}
    first = start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    return ends.get(path.suffix.lower(), "jsonl" if first == b"{" else "csv")


def is_labelled(path: Path, name: str, process: Process) -> bool:
    """Whether any of a file's first records carries an output."""
    from tasks.prompts import output_of

    first = itertools.islice(Reader(path, name, process, labelled=False), LABELLED_WITHIN)
    return any(isinstance(row, Record) and output_of(process, row.values) not in (None, {}) for row in first)


def check_readable(path: Path, name: str, process: Process) -> None:
    """That a file can be read to its end, with or without outputs.

    Raises:
        ValueError: it breaks off, or cannot be read at all.
    """
    for _ in Reader(path, name, process, labelled=False):
        pass


# --- JSON lines


def _jsonl(reader: Reader) -> Rows:
    """One object a line."""
    encoding = encoding_of(reader.path, reader.process.records.encoding)
    reader.facts |= {"encoding": encoding.name, "encoding_known": encoding.known}
    codec = text_codec(encoding)
    for number, (line, size) in enumerate(byte_lines(reader.path, encoding), start=1):
        if size > MAX_ROW_BYTES:
            yield number, f"a line of {size} bytes, at most {MAX_ROW_BYTES} are read; its beginning is kept", line
        elif not line.strip():
            yield number, None, line
        else:
            yield number, _object(line, codec), line.rstrip(b"\r\n")


def _object(line: bytes, codec: str) -> Row:
    """The object that a line holds, or the reason why it holds none."""
    try:
        return parse_object(line.decode(codec))
    except UnicodeDecodeError:
        return f"bytes that are not {codec}"
    except UnreadableRowError as reason:
        return str(reason)


def parse_object(text: str) -> dict[str, Any]:
    """One JSON object, strictly.

    Raises:
        UnreadableRowError: as `parse_json`, or no object.
    """
    found = parse_json(text)
    if not isinstance(found, dict):
        raise UnreadableRowError("JSON, but no object")
    return found


def no_number(_: str) -> Any:
    """What NaN and Infinity are, unless the caller says otherwise."""
    raise UnreadableRowError("NaN or Infinity, which JSON does not have")


def parse_json(text: str, constant: Callable[[str], Any] = no_number) -> Any:
    """JSON, strictly.

    Args:
        constant: what stands for NaN or Infinity, by its name.

    Raises:
        UnreadableRowError: not whole JSON, a name twice, NaN or infinite, a number beyond what a float holds, too deep.
    """
    try:
        return json.loads(text, object_pairs_hook=_each_once, parse_constant=constant, parse_float=_finite, parse_int=_whole)
    except UnreadableRowError:
        raise
    except RecursionError:
        raise UnreadableRowError(TOO_DEEP) from None
    except ValueError as error:
        where = f", column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UnreadableRowError(f"not whole JSON{where}") from None


def plain_content(value: Any) -> bytes:
    """A value as UTF-8 JSON, names in order: what its digest is made from, and the proof that it can be stored.

    Raises:
        UnreadableRowError: too deep, half of a surrogate pair, or what is no text, number or list.
    """
    if _depth_over(value, MAX_DEPTH):
        raise UnreadableRowError(TOO_DEEP)
    try:
        return json.dumps(value, ensure_ascii=False, sort_keys=True).encode()
    except (TypeError, UnicodeEncodeError, RecursionError):
        raise UnreadableRowError("half of a surrogate pair, or a value that is no text, number or list") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise UnreadableRowError("an object has one name twice")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise UnreadableRowError("a number too large")
    return value


def _whole(text: str) -> int:
    """A whole number that arithmetic can go on with: most libraries make floats of larger ones, and fail."""
    if len(text) > 310 or abs(value := int(text)) > sys.float_info.max:
        raise UnreadableRowError("a number too large")
    return value


# --- CSV


def _csv(reader: Reader) -> Rows:
    """Rows of a table of text; values stay text."""
    encoding = encoding_of(reader.path, reader.process.records.encoding)
    reader.facts |= {"encoding": encoding.name, "encoding_known": encoding.known}
    csv.field_size_limit(2 * MAX_ROW_BYTES)  # of the whole interpreter; 131,072 otherwise
    lines = _Lines(byte_lines(reader.path, encoding), text_codec(encoding))
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

    def __init__(self, lines: Iterator[tuple[bytes, int]], codec: str) -> None:
        self.lines, self.codec, self.number = lines, codec, 0
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
        return raw.decode(self.codec, errors="surrogateescape")


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


def _header(reader: Reader, lines: _Lines, raw: bytes) -> list[str]:
    """The column names; the delimiter is the one under which most declared columns are found."""
    text, declared = lines.text(raw), {reader.process.records.key, *reader.process.columns}
    tables = {mark: next(csv.reader([text], delimiter=mark), []) for mark in DELIMITERS}
    mark = max(DELIMITERS, key=lambda mark: len(declared.intersection(name.strip() for name in tables[mark])))
    reader.facts["delimiter"] = mark
    header = [name.strip() for name in tables[mark]]
    reader.check_header(header)
    return header


def _cells(lines: _Lines, raw: bytes, size: int, header: list[str], mark: str) -> tuple[Row, bytes]:
    """A row's cells by name, or why it is none; a quoted cell may run over line ends."""
    if size > MAX_ROW_BYTES:
        return f"a row of {size} bytes, at most {MAX_ROW_BYTES} are read; its beginning is kept", raw
    grown = _Growing(lines, raw)
    row = _parsed(grown, mark)
    if row is None or (len(grown.parts) > 1 and not _is_one_row(grown, row, header, mark)):
        return _without_end(grown, row, header, mark)
    lines.take(len(grown.parts) - 1)
    whole = b"".join(grown.parts)
    content = whole.rstrip(b"\r\n")
    if not any(cell.strip() for cell in row):
        return None, content
    if len(row) != len(header):
        return f"{len(row)} cells, the header has {len(header)}", content
    if not _decodes(whole, lines.codec):
        return f"bytes that are not {lines.codec}", content
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


def _decodes(raw: bytes, codec: str) -> bool:
    try:
        raw.decode(codec)
    except UnicodeDecodeError:
        return False
    return True


def _parsed(texts: Iterable[str], mark: str) -> list[str] | None:
    """The cells of the first row; None when a quote stands within a cell, or is open when the texts end."""
    try:
        return next(csv.reader(texts, delimiter=mark, strict=True), None)
    except csv.Error:
        return None


READERS: dict[str, Callable[[Reader], Rows]] = {"jsonl": _jsonl, "csv": _csv, "parquet": read_parquet, "xlsx": read_xlsx}
