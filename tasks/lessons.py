"""Lessons: which words of reviewers a training has read -> how many records wait to be learned from; <process>/lessons.json.

Counted by the words' names, not by their times: clocks differ, and a store may be copied. Trainings that fail are counted, too, as those
of an inbox file are, so that the same words do not start one after the other for ever.
"""

import logging
from collections.abc import Iterable
from contextlib import suppress
from functools import partial

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.store import MissingObject, Store
from infra.transfer import in_parallel
from tasks.process import Process
from tasks.reviewing import fits
from tasks.reviews import last_of, read_word, review_key, words_in

logger = logging.getLogger(__name__)


class Lessons(BaseModel):
    """What trainings have made of reviews."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    read: tuple[str, ...] = ()  # words that a training which came to a verdict has read
    tried: tuple[str, ...] = ()  # others that one has begun with
    attempts: int = 0  # trainings that began with them


def lessons_of(store: Store, process: str) -> Lessons:
    """What was noted; nothing where that is missing or damaged: then words count again, and a training more does no harm."""
    with suppress(MissingObject):
        try:
            return Lessons.model_validate_json(store.read(_key(process))[0])
        except ValidationError:
            logger.warning("%s is damaged; every review counts as new", store.address(_key(process)))
    return Lessons()


def _key(process: str) -> str:
    return f"{process}/lessons.json"


def _unread(names: Iterable[str], lessons: Lessons) -> tuple[str, ...]:
    return tuple(sorted(set(names) - set(lessons.read)))


def to_learn(store: Store, process: Process) -> int:
    """Reviewed records that a training would learn from and none has; none of those that too many trainings have failed with.

    Raises:
        ValueError: a word is damaged.
    """
    lessons, names = lessons_of(store, process.name), words_in(store, process.name)
    new = _unread(names, lessons)
    if lessons.attempts >= process.arrivals.max_attempts and new == lessons.tried:
        return 0
    last = last_of(names)
    words = in_parallel(partial(read_word, store), [review_key(process.name, name) for name in new if name in last])
    return sum(word.side == "train" and fits(process, word) for word in words)


def begin(store: Store, process: str) -> None:
    """Count an attempt with the words that wait."""
    lessons = lessons_of(store, process)
    new = _unread(words_in(store, process), lessons)
    attempts = lessons.attempts + 1 if new == lessons.tried else 1
    _note(store, process, lessons.model_copy(update={"tried": new, "attempts": attempts}))


def learned(store: Store, process: str, names: tuple[str, ...]) -> None:
    """These words have been read by a training that came to a verdict, whatever the verdict."""
    _note(store, process, Lessons(read=names))


def _note(store: Store, process: str, lessons: Lessons) -> None:
    """Write it down; nothing where nobody has reviewed anything."""
    if lessons.read or lessons.tried:
        store.write(_key(process), lessons.model_dump_json().encode())
