"""Records: one row of paperwork, as it travels from raw/ to validated/ and into a batch job."""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.cleaning import fold

MISSING: Any = None
NUMBER = re.compile(r"[+-]?(?:[0-9]{1,18}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,2})?")  # as programs write one
INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
GROUPED = re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3}){1,5}(?:\.[0-9]+)?")  # 1,234,567.5
NUMBERS = 0.95  # of a column's different values, at least


@dataclass(frozen=True, slots=True)
class Record:
    """One record: its stable id, its values by declared path, and where it stood."""

    id: str
    values: dict[str, Any]
    file: str
    line: int  # 1-based line, or row, of the file
    repairs: tuple[str, ...] = ()  # what was mended, in words without values
    split: str = ""  # "validation" or "test" when it came from a file declared as such


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that could not become a good record; `content` keeps what came, bytes as latin-1 where undecodable."""

    id: str
    file: str
    line: int
    expectation: str
    reason: str  # words without values
    content: str


def lookup(values: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path; keys that themselves hold dots are found too. None when it is not there."""
    if path in values:
        return values[path]
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        inner = values.get(".".join(parts[:cut]))
        if isinstance(inner, Mapping):
            found = lookup(inner, ".".join(parts[cut:]))
            if found is not None:
                return found
    return MISSING


def as_text(value: Any) -> str:
    """A value as a person would write it: lists with commas, objects a line for each key, numbers without a tail."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, Mapping):
        return "\n".join(f"{key}: {as_text(inner)}" for key, inner in value.items() if inner not in (None, "", [], {}))
    if isinstance(value, list | tuple):
        return ", ".join(as_text(inner).replace("\n", "; ") for inner in value)
    return str(value)


def number_of(text: str) -> int | float | None:
    """The finite number that a text is, and nothing else; None when it is none, or could be two, such as 12,50."""
    text = fold(text) if len(text) < 100 else text
    if INTEGER.fullmatch(text):
        return int(text)
    if NUMBER.fullmatch(text):
        return float(text)
    if not GROUPED.fullmatch(text):
        return None
    plain = text.replace(",", "")
    return float(plain) if "." in plain else int(plain)


def are_numbers(values: Collection[str]) -> bool:
    """Whether a column's different values are numbers, but for a few: one too far to be meant, or a word for what is not known."""
    return sum(NUMBER.fullmatch(value) is not None for value in values) >= NUMBERS * len(values)


def to_line(row: Record | Rejected) -> str:
    """A row as one JSON line; dataclasses.asdict would copy every value in it."""
    return json.dumps({name: getattr(row, name) for name in row.__slots__}, ensure_ascii=False) + "\n"


def write_lines(path: Path, rows: Iterable[Record | Rejected]) -> int:
    """Write rows as JSON lines and return how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            stream.write(to_line(row))
            count += 1
    return count


def read_records(path: Path) -> Iterator[Record]:
    """Records of a file that `write_lines` wrote, one at a time."""
    with path.open(encoding="utf-8", newline="\n") as stream:
        for line in stream:
            row = json.loads(line)
            yield Record(row["id"], row["values"], row["file"], row["line"], tuple(row["repairs"]), row["split"])
