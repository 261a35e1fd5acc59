"""Expectations: the Great Expectations types that a declaration may name, those that follow from it, and what they say about a few rows.

No import of Great Expectations, so that `clerkflow check` answers at once; a test holds that both agree.
"""

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from tasks.process import Column, Process

Holds = Callable[..., bool]

# Computed columns: what expectations look at beside the values themselves. A declaration that has a column of such a name is refused.
TYPE = "type of {}"
VISIBLE = "visible characters of {}"
FAULTS = "faults in {}"  # elements of a list that break the column's bounds
TOKENS = "tokens of prompt and completion"  # with the end of the text
OUTPUT = "the output as a whole"  # "given" where a record has the output to learn from

DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
KINDS = {bool: "boolean", int: "integer", float: "number", type(None): None}
BOUNDS = ("min_value", "max_value", "strict_min", "strict_max")
NULLS = ("expect_column_values_to_not_be_null", "expect_column_values_to_be_null")


@dataclass(frozen=True, slots=True)
class Allowed:
    """What one expectation type looks at, takes, and, for one that looks at single rows, means."""

    scope: Literal["row", "rows", "column", "table"]  # rows: single rows fail, but all must be seen, as for uniqueness
    required: tuple[str, ...] = ("column",)
    optional: tuple[str, ...] = ()
    holds: Callable[[Mapping[str, Any]], Holds] | None = None
    fixed: dict[str, Any] = field(default_factory=dict)  # always sent along: a row with a missing value is not judged


def _between(kwargs: Mapping[str, Any]) -> Holds:
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    above = operator.gt if kwargs.get("strict_min") else operator.ge
    below = operator.lt if kwargs.get("strict_max") else operator.le
    return lambda value: (low is None or bool(above(value, low))) and (high is None or bool(below(value, high)))


def _length_between(kwargs: Mapping[str, Any]) -> Holds:
    between = _between(kwargs)
    return lambda value: between(len(value))


def _in_set(kwargs: Mapping[str, Any]) -> Holds:
    values = list(kwargs["value_set"])
    return lambda value: value in values


def _matches(kwargs: Mapping[str, Any]) -> Holds:
    pattern = re.compile(kwargs["regex"])
    return lambda value: bool(pattern.search(str(value)))


def _matches_list(kwargs: Mapping[str, Any]) -> Holds:
    patterns = [re.compile(regex) for regex in kwargs["regex_list"]]
    enough = all if kwargs.get("match_on") == "all" else any
    return lambda value: enough(pattern.search(str(value)) for pattern in patterns)


def _not(holds: Callable[[Mapping[str, Any]], Holds]) -> Callable[[Mapping[str, Any]], Holds]:
    def negated(kwargs: Mapping[str, Any]) -> Holds:
        inner = holds(kwargs)
        return lambda *values: not inner(*values)

    return negated


def _has_format(kwargs: Mapping[str, Any]) -> Holds:
    def holds(value: Any) -> bool:
        try:
            datetime.strptime(value, kwargs["strftime_format"])
        except ValueError:
            return False
        return True

    return holds


def _sums_to(kwargs: Mapping[str, Any]) -> Holds:
    return lambda *values: bool(sum(values) == kwargs["sum_total"])


def _greater(kwargs: Mapping[str, Any]) -> Holds:
    return (lambda a, b: bool(a >= b)) if kwargs.get("or_equal") else (lambda a, b: bool(a > b))


PAIR, LIST = ("column_A", "column_B"), ("column_list",)
PAIR_MISSING = {"ignore_row_if": "either_value_is_missing"}
LIST_MISSING = {"ignore_row_if": "any_value_is_missing"}

ALLOWED: dict[str, Allowed] = {
    "expect_column_values_to_not_be_null": Allowed("row", holds=lambda _: lambda value: value is not None),
    "expect_column_values_to_be_null": Allowed("row", holds=lambda _: lambda value: value is None),
    "expect_column_values_to_be_in_set": Allowed("row", ("column", "value_set"), holds=_in_set),
    "expect_column_values_to_not_be_in_set": Allowed("row", ("column", "value_set"), holds=_not(_in_set)),
    "expect_column_values_to_be_between": Allowed("row", optional=BOUNDS, holds=_between),
    "expect_column_value_lengths_to_be_between": Allowed("row", optional=BOUNDS, holds=_length_between),
    "expect_column_value_lengths_to_equal": Allowed(
        "row", ("column", "value"), holds=lambda kwargs: lambda value: len(value) == kwargs["value"]
    ),
    "expect_column_values_to_match_regex": Allowed("row", ("column", "regex"), holds=_matches),
    "expect_column_values_to_not_match_regex": Allowed("row", ("column", "regex"), holds=_not(_matches)),
    "expect_column_values_to_match_regex_list": Allowed("row", ("column", "regex_list"), ("match_on",), _matches_list),
    "expect_column_values_to_not_match_regex_list": Allowed("row", ("column", "regex_list"), holds=_not(_matches_list)),
    "expect_column_values_to_match_strftime_format": Allowed("row", ("column", "strftime_format"), holds=_has_format),
    "expect_column_pair_values_a_to_be_greater_than_b": Allowed("row", PAIR, ("or_equal",), _greater, PAIR_MISSING),
    "expect_column_pair_values_to_be_equal": Allowed("row", PAIR, (), lambda _: lambda a, b: bool(a == b), PAIR_MISSING),
    "expect_select_column_values_to_be_unique_within_record": Allowed(
        "row", LIST, (), lambda _: lambda *values: len(set(values)) == len(values), LIST_MISSING
    ),
    "expect_multicolumn_sum_to_equal": Allowed("row", (*LIST, "sum_total"), (), _sums_to, LIST_MISSING),
    "expect_column_values_to_be_unique": Allowed("rows"),
    "expect_compound_columns_to_be_unique": Allowed("rows", LIST, fixed=LIST_MISSING),
    "expect_column_min_to_be_between": Allowed("column", optional=BOUNDS),
    "expect_column_max_to_be_between": Allowed("column", optional=BOUNDS),
    "expect_column_mean_to_be_between": Allowed("column", optional=BOUNDS),
    "expect_column_median_to_be_between": Allowed("column", optional=BOUNDS),
    "expect_column_stdev_to_be_between": Allowed("column", optional=BOUNDS),
    "expect_column_sum_to_be_between": Allowed("column", optional=BOUNDS),
    "expect_column_proportion_of_unique_values_to_be_between": Allowed("column", optional=BOUNDS),
    "expect_column_unique_value_count_to_be_between": Allowed("column", optional=BOUNDS),
    "expect_column_distinct_values_to_be_in_set": Allowed("column", ("column", "value_set")),
    "expect_column_distinct_values_to_equal_set": Allowed("column", ("column", "value_set")),
    "expect_column_distinct_values_to_contain_set": Allowed("column", ("column", "value_set")),
    "expect_table_row_count_to_be_between": Allowed("table", (), BOUNDS),
    "expect_table_row_count_to_equal": Allowed("table", ("value",)),
}


def columns_of(kwargs: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns that an expectation's arguments name, in order."""
    several = kwargs.get("column_list", ())
    single = [kwargs[name] for name in ("column", "column_A", "column_B") if name in kwargs]
    return (*map(str, single), *(map(str, several) if isinstance(several, list | tuple) else ()))


def computed_names(paths: Iterable[str]) -> set[str]:
    """The names of all columns that may be computed for values at some paths."""
    return {TOKENS, OUTPUT, *(name.format(path) for path in paths for name in (TYPE, VISIBLE, FAULTS))}


@dataclass(frozen=True, slots=True)
class Preview:
    """What an expectation says about the first rows; `failed` is None where only the whole set can tell."""

    failed: int | None
    rows: int
    reason: str = ""

    def __str__(self) -> str:
        if self.failed is None:
            return self.reason or "checked in validation"
        return f"{self.failed} of {self.rows} fail" if self.failed else f"holds for all {self.rows}"


def preview(type: str, kwargs: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Preview:
    """How many of the first rows an expectation would send to quarantine.

    Args:
        rows: as `look` gives them.
    """
    allowed = ALLOWED[type]
    if allowed.holds is None:
        return Preview(None, len(rows))
    columns, holds = columns_of(kwargs), allowed.holds(kwargs)
    try:
        if type in NULLS:
            column = columns[0]
            return Preview(sum(not holds(row.get(TYPE.format(column), row.get(column))) for row in rows), len(rows))
        cells = [[row.get(column) for column in columns] for row in rows]
        return Preview(sum(not holds(*values) for values in cells if None not in values), len(rows))
    except TypeError:
        return Preview(None, len(rows), "cannot be computed: the column holds values of another type")


def look(process: "Process", id: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What expectations see of one record, see `look_at`."""
    return next(look_at(process, [(id, values)]))


def look_at(process: "Process", records: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[dict[str, Any]]:
    """What expectations see of each record: its id, its values by path, and the computed columns but for the tokens.

    A value of another type than declared is shown as missing (its type column tells), so that "forty" does not stop a comparison.
    """
    from tasks.prompts import output_of

    columns = {path: column_of(process, path) for path in process.columns}
    kinds = {path: kinds_for(column) for path, column in columns.items() if column is not None}
    visible = _visible(process)
    for id, values in records:
        row: dict[str, Any] = {process.records.key: id}
        for path, column in columns.items():
            value = values.get(path)
            row[TYPE.format(path)] = kind = kind_of(value, column)
            right = column is None or kind in kinds[path]
            row[path] = value if right and not isinstance(value, Mapping | list) else None
            if right and value is not None and column is not None and column.list:
                row[FAULTS.format(path)] = sum(not within(column, element) for element in value)
            if right and isinstance(value, str) and path in visible:
                row[VISIBLE.format(path)] = _visible_characters(process, value)
        if process.output.kind == "fields":
            row[OUTPUT] = None if output_of(process, values) is None else "given"
        yield row


def shown(process: "Process") -> set[str]:
    """The columns, computed ones too, that tell of nothing but what the prompt shows."""
    return {name.format(path) for path in process.input_columns for name in ("{}", TYPE, FAULTS, VISIBLE)}


def column_of(process: "Process", path: str) -> "Column | None":
    """What the value at a path must be; None for a side column of which nothing is declared."""
    if path in process.output_columns:
        return process.output_columns[path]
    declared = path in process.records.columns or path in process.input_columns
    return process.column(path) if declared else None


def kind_of(value: Any, column: "Column | None" = None) -> str | None:
    """The type of a value in the words of a declaration; "list of …" for a list, None for a missing value."""
    if isinstance(value, str):
        return "date" if column is not None and column.type == "date" and is_day(value) else "string"
    if isinstance(value, list):
        kinds = sorted({str(kind_of(element, column)) for element in value})
        return f"list of {' and '.join(kinds)}" if kinds else "list"
    return KINDS.get(type(value), "object")


def is_day(text: str) -> bool:
    """Whether a text is a day of the calendar as YYYY-MM-DD."""
    try:
        return bool(DAY.fullmatch(text) and date.fromisoformat(text))
    except ValueError:
        return False


def kinds_for(column: "Column") -> tuple[str, ...]:
    """The types that a column takes."""
    one = ("integer", "number") if column.type == "number" else (column.type,)
    both = ("list of integer and number",) if column.type == "number" else ()
    return (*(f"list of {kind}" for kind in one), *both, "list") if column.list else one


def within(column: "Column", value: Any) -> bool:
    """Whether one value of the right type keeps the column's bounds."""
    if isinstance(value, str):
        fits = len(value) <= column.max_characters and (column.pattern is None or re.search(column.pattern, value) is not None)
        return fits and (column.values is None or value in column.values)
    if isinstance(value, int | float):
        return (column.minimum is None or value >= column.minimum) and (column.maximum is None or value <= column.maximum)
    return True


def _visible(process: "Process") -> tuple[str, ...]:
    """Paths whose text must not be blank: what the prompt shows, and a text that is to be written."""
    texts = {**process.input_columns, **({} if process.output.kind == "fields" else process.output_columns)}
    return tuple(path for path, column in texts.items() if column.type == "string" and not column.optional and not column.list)


def _visible_characters(process: "Process", text: str) -> int:
    """How many characters are left to see after cleaning; 1 is enough for long texts."""
    from tasks.cleaning import fold
    from tasks.prompts import clean

    if text.isascii() and "<" not in text and "&" not in text:
        return len(text.strip())
    return len(fold(clean(process, text)))


def derived(process: "Process", labels: Sequence[str] | None) -> list[tuple[str, dict[str, Any]]]:
    """The expectations that follow from a declaration.

    Args:
        labels: the closed set of labels; None when every label is welcome.
    """
    found: list[tuple[str, dict[str, Any]]] = []
    if process.output.kind == "fields":
        found.append(("expect_column_values_to_not_be_null", {"column": OUTPUT}))
    for path in process.columns:
        if (column := column_of(process, path)) is not None:
            closed = labels if path == process.output.label and labels is not None else column.values
            found += _of_column(path, column, closed)
    found += [("expect_column_values_to_be_between", {"column": VISIBLE.format(path), "min_value": 1}) for path in _visible(process)]
    bounds = {"column": TOKENS, "min_value": 1, "max_value": process.finetuning.max_length}
    return [*found, ("expect_column_values_to_be_between", bounds), ("expect_column_values_to_be_unique", {"column": process.records.key})]


def _of_column(path: str, column: "Column", closed: Sequence[str] | None) -> Iterable[tuple[str, dict[str, Any]]]:
    """What one column must keep."""
    if not column.optional:
        yield "expect_column_values_to_not_be_null", {"column": path}
    yield "expect_column_values_to_be_in_set", {"column": TYPE.format(path), "value_set": list(kinds_for(column))}
    if column.list:
        yield "expect_column_values_to_be_between", {"column": FAULTS.format(path), "max_value": 0}
        return
    if closed is not None:
        yield "expect_column_values_to_be_in_set", {"column": path, "value_set": list(closed)}
    if column.type == "string":
        yield "expect_column_value_lengths_to_be_between", {"column": path, "max_value": column.max_characters}
    if column.pattern is not None:
        yield "expect_column_values_to_match_regex", {"column": path, "regex": column.pattern}
    bounds = {name: bound for name, bound in (("min_value", column.minimum), ("max_value", column.maximum)) if bound is not None}
    if bounds and column.is_number:
        yield "expect_column_values_to_be_between", {"column": path, **bounds}
