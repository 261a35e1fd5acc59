"""Readers: a JSONL, CSV, Parquet or XLSX file -> records one by one; a row that cannot be read is rejected, with what came and why.

Memory is flat but for one row. Rows in = records + rejected; blank lines are counted and are no rows.
"""

import hashlib
import itertools
import json
import math
import sys
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tasks.artifacts import file_digest
from tasks.delimited import read_csv
from tasks.encodings import KEPT_BYTES, MAX_ROW_BYTES, Encoding, UndecodableError, byte_lines, encoding_of, text_of
from tasks.process import Process
from tasks.records import Record, Rejected, lookup
from tasks.sheets import read_parquet, read_xlsx

MAX_DEPTH = 64  # of objects within objects
IN_ORDER = json.JSONEncoder(ensure_ascii=False, sort_keys=True)
SCALARS = (str, int, float, type(None))
TOO_DEEP = f"objects within objects, more than {MAX_DEPTH} deep"
READABLE = "the row can be read"  # what a rejected row failed, in the place of an expectation
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
        split: "train", "validation" or "test" when the file is declared as such.
        labelled: whether the columns of the output must be there.

    Raises, while it is read:
        FileNotFoundError: no such file.
        ValueError: the file as a whole cannot be read, or lacks a declared column; the message names it.
    """

    def __init__(self, path: Path, name: str, process: Process, split: str = "", labelled: bool = True) -> None:
        self.path, self.name, self.process, self.split, self.labelled = path, name, process, split, labelled
        self.counts = {"records": 0, "blank": 0, "rejected": 0}
        self.facts: dict[str, Any] = {"encoding": None}
        self.encoding = Encoding("utf-8", "")
        self.raw = b""  # what the last row was, without its line end; of a text that is wide, as UTF-8; of Parquet and XLSX, as JSON
        self.has_id = True  # whether the last record has one of its own
        self.objects = {path for path in process.columns if process.column(path).type == "object"}

    def __iter__(self) -> Iterator[Record | Rejected]:
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.process.name}: {self.path} does not exist; declared in records.source")
        self.facts["format"] = format_of(self.path)
        for line, row, raw in READERS[self.facts["format"]](self):
            self.raw = raw
            if row is None:
                self.counts["blank"] += 1
                continue
            found = self._record(line, row) if isinstance(row, Mapping) else row
            if isinstance(found, Record):
                self.counts["records"] += 1
                yield found
            else:
                self.counts["rejected"] += 1
                content = self._content(raw or json.dumps(row, default=str).encode())
                yield Rejected(f"{self.name}:{line}", self.name, line, READABLE, found, content)

    @property
    def report(self) -> dict[str, Any]:
        """What was found; whole after the last row."""
        counts = {
            "rows": self.counts["records"] + self.counts["rejected"],
            "blank": self.counts["blank"],
            "rejected": self.counts["rejected"],
        }
        return {"name": self.name, "split": self.split, "sha256": file_digest(self.path), **self.facts, **counts}

    def know(self, encoding: Encoding) -> None:
        """Take an encoding for the file's, and report it."""
        self.encoding = encoding
        self.facts |= {"encoding": encoding.name, "encoding_known": encoding.known}

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
        missing = [path for path, column in needed.items() if not column.optional and not stands_in(header, path)]
        if missing:
            remedy = "" if alike(header, process) else "; the first row must hold their names"
            raise ValueError(f"{self.name}: no column {', '.join(missing)}; {columns_told(header, process)}{remedy}")

    def _record(self, line: int, row: Mapping[str, Any]) -> Record | str:
        """The record of a row, or the reason why it is none."""
        values = {path: value for path in self.process.columns if (value := self._value(row, path)) is not None}
        try:
            content, id = plain_content(values), id_of(row, self.process.records.key)
        except UnreadableRowError as reason:
            return str(reason)
        self.has_id = bool(id)
        if id:
            return Record(id, values, self.name, line, (), self.split)
        made = f"sha256-{hashlib.sha256(content).hexdigest()[:24]}"
        return Record(made, values, self.name, line, (f"{self.process.records.key}: missing, made from the content",), self.split)

    def _value(self, row: Mapping[str, Any], path: str) -> Any:
        """The value at a path; in a table, an object is the columns that begin with its path."""
        value = lookup(row, path)
        if value is None and path in self.objects:
            value = {name.removeprefix(f"{path}."): inner for name, inner in row.items() if name.startswith(f"{path}.")} or None
        return value

    def _content(self, content: bytes) -> str:
        try:
            text = text_of(content, self.encoding)
            text.encode()  # UTF-7 gives halves of surrogate pairs
        except ValueError:
            return content.decode("latin-1")
        return text


def id_of(row: Mapping[str, Any], name: str) -> str:
    """The id of a row, empty when it has none; "3" for 3.0, as pandas writes whole numbers among which some are missing.

    Args:
        name: of the column that holds it.

    Raises:
        UnreadableRowError: it is no text or whole number, or holds what no name of a record may hold.
    """
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


def stands_in(header: Sequence[str], path: str) -> bool:
    """Whether a table's columns hold a path: itself, an object that it is in, or its own parts."""
    return any(name == path or path.startswith(f"{name}.") or name.startswith(f"{path}.") for name in header)


def _depth_over(value: Any, left: int) -> bool:
    if not isinstance(value, Mapping | list):
        return False
    inner = value.values() if isinstance(value, Mapping) else value
    return left < 0 or any(_depth_over(element, left - 1) for element in inner if not isinstance(element, SCALARS))


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
        raise ValueError(f"{path.name} is an old .xls, under a password, or a packed file; save it as .xlsx, .csv or .jsonl")
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
    reader.know(encoding)
    for number, (line, size) in enumerate(byte_lines(reader.path, encoding), start=1):
        if size > MAX_ROW_BYTES:
            yield number, f"a line of {size} bytes, at most {MAX_ROW_BYTES} are read; its beginning is kept", line[:KEPT_BYTES]
        elif not line.strip():
            yield number, None, line
        else:
            yield number, _object(line, encoding), line.rstrip(b"\r\n")


def _object(line: bytes, encoding: Encoding) -> Row:
    """The object that a line holds, or the reason why it holds none."""
    try:
        return parse_object(text_of(line, encoding))
    except (UndecodableError, UnreadableRowError) as reason:
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
        return (_strict() if constant is no_number else _decoder(constant)).decode(text)
    except UnreadableRowError:
        raise
    except RecursionError:
        raise UnreadableRowError(TOO_DEEP) from None
    except ValueError as error:
        where = f", column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UnreadableRowError(f"not whole JSON{where}") from None


def _decoder(constant: Callable[[str], Any]) -> json.JSONDecoder:
    return json.JSONDecoder(object_pairs_hook=_each_once, parse_constant=constant, parse_float=_finite, parse_int=_whole)


@cache
def _strict() -> json.JSONDecoder:
    return _decoder(no_number)


def plain_content(value: Any) -> bytes:
    """A value as UTF-8 JSON, names in order: what its digest is made from, and the proof that it can be stored.

    Raises:
        UnreadableRowError: too deep, half of a surrogate pair, or what is no text, number or list.
    """
    if _depth_over(value, MAX_DEPTH):
        raise UnreadableRowError(TOO_DEEP)
    try:
        return IN_ORDER.encode(value).encode()
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


READERS: dict[str, Callable[[Reader], Rows]] = {"jsonl": _jsonl, "csv": read_csv, "parquet": read_parquet, "xlsx": read_xlsx}
