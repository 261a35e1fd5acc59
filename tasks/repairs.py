"""Repairs: a record as it came -> the same record with its small slips mended, each with a note without values.

What cannot be mended without guessing is left as it is, for validation to refuse.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from tasks.cleaning import fold
from tasks.expectations import column_of, is_day
from tasks.process import Column, Process
from tasks.readers import UnreadableRowError, parse_json, plain_content
from tasks.records import NUMBER, Record, number_of

BETWEEN = re.compile(r"(?<=[0-9])[' ](?=[0-9])")  # thousands as well as commas, where a cell holds nothing but its number
DAY = re.compile(r"([0-9]{4})\s*[-/.年]\s*([0-9]{1,2})\s*[-/.月]\s*([0-9]{1,2})\s*日?(?:[T ]00:00(?::00(?:\.0+)?)?Z?)?")
YES = frozenset(("yes", "true", "y", "t", "1", "是", "有", "对"))
NO = frozenset(("no", "false", "n", "f", "0", "否", "无", "不"))


def repair(process: Process, record: Record, labels: Sequence[str] | None) -> Record:
    """The record with types set and spelling variants of closed vocabularies put right; notes say what was done.

    Args:
        labels: the closed set of labels; None when every label is welcome.
    """
    values, notes, same = dict(record.values), list(record.repairs), True
    for path in process.columns:
        if (came := values.get(path)) is None or (column := column_of(process, path)) is None:
            continue
        if path == process.output.label:
            if labels is not None and came not in labels:
                column = column.model_copy(update={"values": tuple(labels)})
            found, done = _label(came, column)
        else:
            found, done = mend(came, column)
        if done:
            notes += [f"{path}: {note}" for note in done]
        same = same and found is came
        if found is None:
            del values[path]
        else:
            values[path] = found
    return record if same and len(notes) == len(record.repairs) else replace(record, values=values, repairs=tuple(notes))


def _label(value: Any, column: Column) -> tuple[Any, list[str]]:
    """A label, which is a text even where a table made it a number."""
    if isinstance(value, int):
        text = ("true" if value else "false") if isinstance(value, bool) else str(value)
        return mend(text, column)[0], ["number to text"]
    found, notes = mend(value, column)
    return (None, notes) if isinstance(found, str) and not found.strip() else (found, notes)


def mend(value: Any, column: Column) -> tuple[Any, list[str]]:
    """One value as its column wants it, and what was done; a text that is only blanks is missing where no text is wanted."""
    notes: list[str] = []
    if isinstance(value, str) and "\0" in value:
        value, notes = value.replace("\0", ""), ["NUL removed"]
    if column.list or column.type == "object":
        found, more = _structure(value, column)
    else:
        found, more = MENDERS[column.type](value, column)
    return found, notes + more


def _structure(value: Any, column: Column) -> tuple[Any, list[str]]:
    """Lists and objects, which a table holds as JSON or as a; b; c."""
    notes: list[str] = []
    if isinstance(value, str):
        if not value.strip():
            return None, []
        value, notes = _from_text(value, column)
    if column.list and isinstance(value, list):
        mended = [mend(element, column.model_copy(update={"list": False})) for element in value]
        notes += sorted({note for _, inner in mended for note in inner})
        value = [element for element, _ in mended if element is not None]
    return value, notes


def _from_text(text: str, column: Column) -> tuple[Any, list[str]]:
    if text.lstrip()[:1] in ("[", "{"):
        try:
            found = parse_json(text, constant=lambda name: None)
            plain_content(found)
        except UnreadableRowError:
            return text, []
        return found, ["JSON text read"]
    return ([part.strip() for part in re.split("[;；]", text) if part.strip()], ["text to list"]) if column.list else (text, [])


def _string(value: Any, column: Column) -> tuple[Any, list[str]]:
    if not isinstance(value, str) or column.values is None or value in column.values:
        return value, []
    known = _vocabulary(tuple(column.values)).get(_spelling(value))
    return (known, ["spelling of a known value"]) if known is not None else (value, [])


@lru_cache(maxsize=1024)
def _vocabulary(values: tuple[str, ...]) -> Mapping[str, str]:
    """Comparison form -> the value itself, where only one has that form."""
    spelled = [_spelling(value) for value in values]
    return {form: value for form, value in zip(spelled, values, strict=True) if spelled.count(form) == 1}


def _spelling(text: str) -> str:
    """The form in which a value of a closed set is recognised: `_`, `-` and blanks are one."""
    return " ".join(re.split(r"[\s_-]+", fold(text))).strip() if len(text) < 1_000 else text


def _integer(value: Any, _: Column) -> tuple[Any, list[str]]:
    if isinstance(value, float) and value.is_integer():
        return int(value), ["number to integer"]
    if not isinstance(value, str):
        return value, []
    found, notes = _number(value, _)
    if isinstance(found, float) and found.is_integer():
        return int(found), notes
    return (found, notes) if found is None or isinstance(found, int) else (value, [])


def _number(value: Any, _: Column) -> tuple[Any, list[str]]:
    """A number from its text; a table's plain digits are no repair worth a note."""
    if not isinstance(value, str):
        return value, []
    text = fold(value) if len(value) < 100 else value
    if not text:
        return None, []
    if NUMBER.fullmatch(text):
        return number_of(text), [] if text == value else ["blanks or wide digits"]
    found = number_of(BETWEEN.sub(",", text))
    return (value, []) if found is None else (found, ["thousands separators"])


def _boolean(value: Any, _: Column) -> tuple[Any, list[str]]:
    if isinstance(value, int) and not isinstance(value, bool) and value in (0, 1):
        return bool(value), ["number to boolean"]
    if not isinstance(value, str):
        return value, []
    text = fold(value) if len(value) < 100 else value
    if not text:
        return None, []
    if text in YES or text in NO:
        return text in YES, [] if value in ("true", "false") else ["word to boolean"]
    return value, []


def _date(value: Any, _: Column) -> tuple[Any, list[str]]:
    """Year, month, day in that order; 3/4/2024 could be two days and stays."""
    if not isinstance(value, str) or is_day(value):
        return value, []
    text = fold(value).upper() if len(value) < 100 else value
    if not text:
        return None, []
    if match := DAY.fullmatch(text):
        day = f"{match[1]}-{int(match[2]):02}-{int(match[3]):02}"
        if is_day(day):
            return day, ["date to YYYY-MM-DD"]
    return value, []


MENDERS: dict[str, Callable[[Any, Column], tuple[Any, list[str]]]] = {
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "date": _date,
}
