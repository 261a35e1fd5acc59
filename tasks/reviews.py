"""Reviews: what a person said on a record, as an object of reviews/ that is written once, and how all of them are found.

<process>/reviews/<what the record is known by>.json    the first word on a record
<process>/reviews/<what the record is known by>.2.json  the next, when the first was void by the declaration of then
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.store import Store
from tasks.process import digest_of

Word = Literal["accepted", "corrected", "rejected"]
Side = Literal["gold", "train"]
AUDIT: Literal["audit"] = "audit"  # why a person looks at an answer that was accepted
WORD = re.compile(r"[0-9a-f]{32}(\.[1-9][0-9]{0,8})?\.json")


class Reviewed(BaseModel):
    """A person's word on a record."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str  # what its record is known by; of the second word on it and later ones, with `.2`, `.3`
    batch: str
    line: int
    record_id: str
    inputs: dict[str, Any]  # the record's values by declared path
    text: str  # digest of what the splitter goes by: the group, or the folded prompt
    proposed: Any
    confidence: float
    threshold: float | None
    why: str  # it was to be reviewed
    model_version: str
    word: Word
    kind: Literal["label", "fields", "text"] | None = None  # of output that was declared
    output: Any = None  # what is right; None when rejected
    side: Side | None = None
    reviewer: str
    reason: str = ""
    decided: datetime  # UTC

    @property
    def audited(self) -> bool:
        """Whether the answer had been accepted before, and was drawn for an audit."""
        return self.why == AUDIT


@dataclass(frozen=True, slots=True)
class Said:
    """What people have said at one moment."""

    names: frozenset[str]  # of all words, damaged ones, too
    words: tuple[Reviewed, ...]  # in the order in which they were given

    def standing(self) -> dict[str, Reviewed]:
        """What a record is known by -> the last word on it, in the order in which they were given; none where that one is damaged."""
        last = last_of(self.names)
        return {place_of(word.id)[0]: word for word in self.words if word.id in last}


def item_id(record_id: str, inputs: Mapping[str, Any]) -> str:
    """What a record is known by."""
    return digest_of([record_id, dict(inputs)])[:32]


def shown_id(record_id: str, inputs: Mapping[str, Any], shown: Iterable[str]) -> str:
    """What a record is known by where only the values at these paths count."""
    return item_id(record_id, {path: inputs[path] for path in shown if path in inputs})


def review_key(process: str, id: str) -> str:
    """Where the word on a record is kept."""
    return f"{process}/reviews/{id}.json"


def place_of(name: str) -> tuple[str, int]:
    """What a word's record is known by, and which word on it this is."""
    id, _, number = name.partition(".")
    return id, int(number or 1)


def words_in(store: Store, process: str, id: str = "") -> dict[str, str]:
    """The words' names, and their etags.

    Args:
        id: what a record is known by, when only those on it are asked for.
    """
    found = {info.key.rpartition("/")[2]: info.etag for info in store.list(f"{process}/reviews/{id}")}
    return {name.removesuffix(".json"): etag for name, etag in found.items() if WORD.fullmatch(name)}


def last_of(names: Iterable[str]) -> set[str]:
    """Of each record's words the last one's name."""
    return set({place_of(name)[0]: name for name in sorted(names, key=lambda name: place_of(name)[1])}.values())


def last_word(store: Store, process: str, id: str) -> Reviewed | None:
    """The last word on a record; None when nobody has looked at it.

    Raises:
        ValueError: it is damaged.
    """
    names = last_of(words_in(store, process, id))
    return read_word(store, review_key(process, *names)) if names else None


def read_word(store: Store, key: str) -> Reviewed:
    """A word that was given.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return Reviewed.model_validate_json(store.read(key)[0])
    except ValidationError:
        raise ValueError(
            f"{store.address(key)} is damaged: it is no decision of a reviewer; restore it, or delete it to ask again"
        ) from None
