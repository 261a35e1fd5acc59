"""Arguments: what a declared expectation is told -> the mistakes in it, before any row would be sent to quarantine by one."""

import difflib
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tasks.expectations import ALLOWED, columns_of, is_day

if TYPE_CHECKING:
    from tasks.process import Column

Fits = Callable[[Any], bool]


def mistakes_in(type: str, kwargs: Mapping[str, Any], columns: Mapping[str, "Column | None"]) -> Iterator[str]:
    """What is wrong with one declared expectation, in a person's words.

    Args:
        columns: every column that it may name, and what its values must be where that is declared.
    """
    allowed = ALLOWED.get(type)
    if allowed is None:
        close = difflib.get_close_matches(type, ALLOWED, n=3, cutoff=0.5)
        yield f"expectation {type!r} is not known; {'did you mean ' + ', '.join(close) if close else 'there are: ' + ', '.join(ALLOWED)}"
        return
    options = (*allowed.required, *allowed.optional, *(("mostly",) if allowed.scope in ("row", "rows") else ()))
    for name in [name for name in kwargs if name not in options]:
        yield f"{type} has no {name!r}; it takes: {', '.join(options)}"
    for name in [name for name in allowed.required if name not in kwargs]:
        yield f"{type} needs {name!r}"
    if "min_value" in allowed.optional and kwargs.get("min_value") is None and kwargs.get("max_value") is None:
        yield f"{type} needs 'min_value' or 'max_value'"
    for column in columns_of(kwargs):
        if column not in columns:
            yield f"{type} names column {column!r}; there are: {', '.join(columns)}"
    yield from _bad_values(type, kwargs, columns)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    """A number that JSON and a float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | bool) or _is_number(value)


def _each(fits: Fits) -> Fits:
    return lambda values: isinstance(values, list | tuple) and bool(values) and all(map(fits, values))


def _is_regex(value: Any) -> bool:
    try:
        re.compile(value)
    except (re.error, TypeError):
        return False
    return isinstance(value, str)


def _reads_back(value: Any) -> bool:
    """Whether a format of days and times can be written and read again: not one with %D or %Q."""
    try:
        datetime.strptime(datetime(2024, 2, 29, 13, 5).strftime(value), value)
    except (TypeError, ValueError):
        return False
    return True


ARGUMENTS: dict[str, tuple[str, Fits]] = {  # what an argument is, whichever expectation takes it
    "column_list": ("a list of columns", _each(lambda name: True)),  # whether there are such columns is told by name
    "value_set": ("a list of texts, numbers, or true and false", _each(_is_scalar)),
    "regex": ("a regular expression", _is_regex),
    "regex_list": ("a list of regular expressions", _each(_is_regex)),
    "match_on": ("any or all", lambda value: value in ("any", "all")),
    "strftime_format": ("a format of dates that can be read back, such as '%Y-%m-%d'", _reads_back),
    "mostly": ("a share, above 0 and at most 1", lambda value: _is_share(value) and value > 0),
    "value": ("a whole number, 0 or more", _is_count),
    "sum_total": ("a number", _is_number),
    **dict.fromkeys(("strict_min", "strict_max", "or_equal"), ("true or false", _is_truth)),
}
HELD: dict[str, tuple[str, Fits]] = {  # what is compared with the values of a column of this type
    "string": ("text", _is_text),
    "date": ("days such as '2024-01-31'", lambda value: isinstance(value, str) and is_day(value)),
    "integer": ("numbers", _is_number),
    "number": ("numbers", _is_number),
    "boolean": ("true or false", _is_truth),
}
COUNTED = ("lengths", "row_count", "unique_value_count")  # in the names of expectations whose bounds are whole numbers
CALCULATED = ("mean", "median", "stdev", "column_sum", "multicolumn_sum")  # of those that take numbers only


def _bad_values(type: str, kwargs: Mapping[str, Any], columns: Mapping[str, "Column | None"]) -> Iterator[str]:
    """Arguments of a wrong form: they would stop a run, or send every row to quarantine."""
    for name, value in kwargs.items():
        expected, fits = _argument(type, name)
        if not fits(value):
            yield f"{type}: {name} must be {expected}, got {reprlib.repr(value)}"
        elif (held := _held(type, kwargs, columns)) and not all(map(held[1], _compared(name, value))):
            yield f"{type}: {name} must be of {held[0]}, as column {kwargs['column']} holds, got {reprlib.repr(value)}"
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    if any(fits(low) and fits(high) for fits in (_is_number, _is_text)) and low > high:  # type: ignore[operator]
        yield f"{type}: min_value {low!r} is above max_value {high!r}"
    for name in columns_of(kwargs):
        if (column := columns.get(name)) and not _takes(type, column):
            yield f"{type} does not take column {name}, whose type is {'list' if column.list else column.type}"


def _argument(type: str, name: str) -> tuple[str, Fits]:
    """What an argument must be, in words, and whether a value is that."""
    if name not in ("min_value", "max_value"):
        return ARGUMENTS.get(name, ("", lambda value: True))
    if any(part in type for part in COUNTED):
        words, fits = "a whole number, 0 or more", _is_count
    elif "proportion" in type:
        words, fits = "a share from 0 to 1", _is_share
    elif any(part in type for part in CALCULATED):
        words, fits = "a number", _is_number
    else:
        words, fits = "a text or a number", _is_scalar
    return words, lambda value: value is None or fits(value)


def _held(type: str, kwargs: Mapping[str, Any], columns: Mapping[str, "Column | None"]) -> tuple[str, Fits] | None:
    """What the values of the column are that an argument is compared with; None where it is compared with something else."""
    column = columns.get(str(kwargs.get("column")))
    compared = type.endswith(("_set", "values_to_be_between", "_min_to_be_between", "_max_to_be_between"))
    return HELD.get(column.type) if compared and column and not column.list else None


def _compared(name: str, value: Any) -> Sequence[Any]:
    """The parts of an argument that are compared with a column's values."""
    if name == "value_set":
        return tuple(value)
    return (value,) if name in ("min_value", "max_value") and value is not None else ()


def _takes(type: str, column: "Column") -> bool:
    """Whether an expectation can be computed for a column."""
    if any(part in type for part in CALCULATED):
        return column.is_number and not column.list
    return "strftime" not in type or (column.type in ("string", "date") and not column.list)
