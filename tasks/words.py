"""Words: what people have said to records before -> it stands, whichever model is asked about them later.

A record is the same when its id and its inputs are: its answer is then the person's, and no model is asked; one that a person rejected is
never accepted from a model. What is said while a batch is made counts for the table of results, too: see `Words.later`.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from infra.store import Store
from tasks.predictions import Prediction
from tasks.process import Process
from tasks.records import Record
from tasks.reviewing import Queue, Reviewed, checked_output, item_id

REVIEWED = "reviewed"  # in the place of a model's version: a person said so
FILE = "words.jsonl"


@dataclass(frozen=True, slots=True)
class Spoken:
    """One row of words.jsonl: an answer of a batch that a person has given."""

    line: int  # of the source, 1-based
    record_id: str
    word: str  # its object is reviews/<word>.json


class Words:
    """People's words on a process's records, by what a record is known by."""

    def __init__(self, store: Store, process: Process) -> None:
        self._process, self._queue = process, Queue(store, process)
        self._known = self._all()

    def _all(self) -> Mapping[str, Reviewed]:
        return {word.id: word for word in self._queue.words() if _still_fits(self._process, word)}

    def on(self, record: Record) -> Reviewed | None:
        """The word on a record; None when nobody has looked at it."""
        return self._known.get(item_id(record.id, record.values)) if self._known else None

    def later(self) -> list[str]:
        """What records are known by that people have spoken about since the beginning."""
        return sorted(self._all().keys() - self._known.keys())


def _still_fits(process: Process, word: Reviewed) -> bool:
    """Whether an answer is one by today's declaration: a label may be gone, a field may have come."""
    with suppress(ValueError):
        return word.output is None or checked_output(process, word.output) == word.output
    return False


def is_answer(word: Reviewed | None) -> bool:
    """Whether a word says what is right; a rejection only says what is not."""
    return word is not None and word.output is not None


def answer_of(word: Reviewed) -> Prediction:
    """A word as an answer: a person is sure."""
    return Prediction(word.output, "", 1.0, None, 0)
