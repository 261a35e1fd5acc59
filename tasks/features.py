"""Features: one record and its prediction -> the short row that drift is measured on; the same for the reference and for batches."""

import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tasks.process import Process
from tasks.prompts import clean_value
from tasks.records import as_text, lookup

if TYPE_CHECKING:
    from tasks.predictions import Prediction

TEXT_CHARACTERS = 500  # longer texts are cut: a row stays small, and a beginning tells its kind
LEAVES = 50  # values taken from one object
UNUSUAL = re.compile(r"[^\w .-]")  # in the names inside an object, which come with the data and are shown in reports
OWN = ("text", "text_length", "non_ascii_share", "prompt_tokens", "confidence")  # columns of every monitoring row
NO_OUTPUT = "(none)"  # the label of a record for which the model gave none

T = TypeVar("T")
Row = dict[str, str | float]


def monitoring_row(process: Process, values: Mapping[str, Any], prompt: str, prediction: "Prediction") -> Row:
    """What of a record and its prediction can drift, as flat short values.

    Args:
        values: the record's values by declared path; cleaned or not gives the same row.
        prompt: what the model was shown; its text stands in when the inputs hold none.

    Returns:
        text (cut; only when it is watched), text_length (characters), non_ascii_share (0–1), prompt_tokens, confidence (0–1),
        prediction (the label; how many fields are filled; the text's characters), prediction.<field> for closed fields, and the
        path of each other value of the record that is no free input text. A number is a float, all else a string;
        what is missing has no key.
    """
    text = input_text(process, values) or prompt
    own: Row = {"text": _safe(text[:TEXT_CHARACTERS])} if watches_texts(process) else {}
    own |= {
        "text_length": float(len(text)),
        "non_ascii_share": sum(not character.isascii() for character in text) / max(1, len(text)),
        "prompt_tokens": float(prediction.tokens),
        "confidence": prediction.confidence if math.isfinite(prediction.confidence) else 0.0,
    }
    return dict(_columns(process, values)) | dict(_outputs(process, prediction.output)) | own


def watches_texts(process: Process) -> bool:
    """Whether the words of the inputs are compared; else no text is kept for it."""
    return process.drift.columns is None or "text" in process.drift.columns


def is_free_text(process: Process, path: str) -> bool:
    """Whether a path is prose that the model reads: it is watched through its length and words, not value by value."""
    column = process.input_columns.get(path)
    return column is not None and column.type == "string" and column.values is None


def input_text(process: Process, values: Mapping[str, Any]) -> str:
    """The cleaned inputs, one below the other."""
    found = (as_text(clean_value(process, lookup(values, path))) for path in process.input_columns)
    return "\n".join(text for text in found if text)


def _columns(process: Process, values: Mapping[str, Any]) -> Iterator[tuple[str, str | float]]:
    """Values under their paths, and those inside objects under theirs."""
    for path in watched_paths(process):
        yield from _leaves(process, path, lookup(values, path))


def watched_paths(process: Process) -> Iterator[str]:
    """Paths of a record that are neither free input text nor bound to change with time."""
    records = process.records
    apart = {records.key, records.timestamp, records.group, process.output.references}
    for path in (*process.input_columns, *process.side_columns):
        if path not in apart and process.column(path).type != "date" and not is_free_text(process, path):
            yield path


def watched_columns(process: Process) -> tuple[str, ...]:
    """Every column that a monitoring row can have; of an object, that of its whole stands for its parts."""
    outputs = ["prediction", *(f"prediction.{name}" for name in _closed_fields(process))]
    return (*OWN, *outputs, *watched_paths(process))


def _leaves(process: Process, path: str, value: Any) -> Iterator[tuple[str, str | float]]:
    """A value, or the values inside an object, under their dotted paths."""
    if isinstance(value, Mapping):
        for key in list(value)[:LEAVES]:
            yield from _leaves(process, f"{path}.{UNUSUAL.sub('_', str(key))[:64]}", value[key])
    elif (found := _short(process, value)) is not None:
        yield path, found


def _short(process: Process, value: Any) -> str | float | None:
    """A number as float, a list as its length, all else as short text; None when there is nothing."""
    if value is None or value == "":
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if abs(value) < 1e300 else None  # not so for NaN, infinities and integers beyond every float
    if isinstance(value, Sequence) and not isinstance(value, str):
        return float(len(value))
    return _safe(as_text(clean_value(process, value))[:TEXT_CHARACTERS])


def _outputs(process: Process, output: Any) -> Iterator[tuple[str, str | float]]:
    """The prediction as one value, and each closed field as its own."""
    if process.output.kind == "label":
        yield "prediction", NO_OUTPUT if output is None else _safe(str(output))[:TEXT_CHARACTERS]
        return
    yield "prediction", float(len(output or ()))
    for name in _closed_fields(process):
        found = output.get(name) if isinstance(output, Mapping) else None
        yield f"prediction.{name}", NO_OUTPUT if found is None else _safe(as_text(found))[:TEXT_CHARACTERS]


def _closed_fields(process: Process) -> Iterator[str]:
    """Fields of the output that are watched value by value."""
    for name, field in (process.output.fields or {}).items():
        if field.values is not None or field.type == "boolean":
            yield name


def _safe(text: str) -> str:
    """Text that can be written as UTF-8: half a surrogate pair becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


class Reservoir(Generic[T]):
    """A fair sample of a stream of unknown length, the same for the same stream and seed (algorithm R)."""

    def __init__(self, size: int, seed: str) -> None:
        self.size, self.rows, self.seen = size, list[T](), 0
        self._chance = random.Random(seed)  # noqa: S311 - a sample, not a secret

    def offer(self, make: Callable[[], T]) -> None:
        """Take the next row or let it pass; it is made only when it is taken."""
        self.seen += 1
        if len(self.rows) < self.size:
            self.rows.append(make())
        elif (place := self._chance.randrange(self.seen)) < self.size:
            self.rows[place] = make()
