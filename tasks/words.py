"""Words: what people have said to records before -> it stands, whichever model is asked about them later.

The answer is then the person's, and no model is asked; a record that a person rejected is a dead letter. What is said while a batch is
made counts for the table of results, too: see `Words.later`.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from infra.store import Store
from tasks.predictions import Prediction
from tasks.process import Process
from tasks.reviewing import Queue, answer_by
from tasks.reviews import Reviewed, shown_id

REVIEWED = "reviewed"  # in the place of a model's version: a person said so
FILE = "words.jsonl"


@dataclass(frozen=True, slots=True)
class Spoken:
    """One row of words.jsonl: an answer of a batch that a person has given."""

    line: int  # of the source, 1-based
    record_id: str
    word: str  # its object is reviews/<word>.json


class Words:
    """People's words on a process's records.

    A record is the same when its id and all that its prompt shows are; what else a record carries along may change.

    Args:
        process: the model's own declaration: what its prompt shows.
        today: what an answer must fit, unless it fits the model's own.
    """

    def __init__(self, store: Store, process: Process, today: Process) -> None:
        self._own, self._today, self.shown, self._queue = process, today, tuple(process.input_columns), Queue(store, process)
        self._known = self._all()

    def _all(self) -> Mapping[str, Reviewed]:
        told = ((word, self._answer(word)) for word in self._queue.said().standing().values())
        return {
            self.known_by(word.record_id, word.inputs): word.model_copy(update={"output": answer})
            for word, answer in told
            if answer is not None or word.output is None
        }

    def _answer(self, word: Reviewed) -> Any:
        """What a word says, by the model's own declaration or by today's; None when neither knows such an answer."""
        for process in (self._own, self._today):
            if process.output.kind == self._own.output.kind:
                with suppress(ValueError):
                    return answer_by(process, word)
        return None

    def known_by(self, record_id: str, inputs: Mapping[str, Any]) -> str:
        """What a record is known by."""
        return shown_id(record_id, inputs, self.shown)

    @property
    def spoken(self) -> bool:
        """Whether anybody has looked at any record."""
        return bool(self._known)

    def on(self, item: str) -> Reviewed | None:
        """The last word on what a record is known by; None when nobody has looked at it."""
        return self._known.get(item)

    def later(self) -> list[str]:
        """What records are known by that people have spoken about since the beginning."""
        return sorted(key for key, word in self._all().items() if self._known.get(key) != word)


def answer_of(word: Reviewed) -> Prediction:
    """A word as an answer: a person is sure."""
    return Prediction(word.output, "", 1.0, None, 0)
