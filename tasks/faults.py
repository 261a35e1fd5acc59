"""Faults: a record to be scored -> why the model cannot be asked about it."""

from tasks.cleaning import fold
from tasks.expectations import kind_of, kinds_for, within
from tasks.process import Process
from tasks.prompts import clean
from tasks.reasons import Reason
from tasks.records import Record


def fault_in(process: Process, record: Record) -> tuple[Reason, str] | None:
    """Why the model cannot be asked about a record, in words without values; None when it can."""
    for path, column in process.input_columns.items():
        value = record.values.get(path)
        if value is None and not column.optional:
            return Reason.INPUT_MISSING, f"required input {path} is missing"
        if value is None:
            continue
        kind, declared = kind_of(value, column), kinds_for(column)
        if kind not in declared:
            return Reason.INPUT_TYPE, f"input {path} is of type {kind}, {' or '.join(declared)} is declared"
        if not all(within(column, inner) for inner in (value if column.list else [value])):
            return Reason.INPUT_OUTSIDE, f"input {path} is outside its declared values, bounds or pattern"
        if isinstance(value, str) and not column.optional and _is_blank(process, value):
            return Reason.INPUT_BLANK, f"required input {path} is blank"
    if all(record.values.get(path) in (None, "", [], {}) for path in process.input_columns):
        return Reason.INPUT_NONE, "every input is missing"
    return None


def _is_blank(process: Process, text: str) -> bool:
    """Whether nothing of a text is left to see after cleaning; most texts show it at their first letter."""
    if "<" not in text and "&" not in text and any(map(str.isalnum, text)):
        return False
    return not fold(clean(process, text))
