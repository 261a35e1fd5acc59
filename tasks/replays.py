"""Replays: the dead letters of a finished batch -> which records of its source, as it is now, are asked about again."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from infra.store import Store
from tasks.artifacts import Artifact, fetch_file, scratch
from tasks.batches import find_batch
from tasks.process import digest_of
from tasks.reasons import Reason
from tasks.records import Record, Rejected

LETTERS = "dead_letters.jsonl"


@dataclass(frozen=True, slots=True)
class Letter:
    """What is needed of a dead letter to find its record again."""

    id: str
    line: int
    code: str
    attempt: int


@dataclass(slots=True)
class Again:
    """The dead letters of a batch that are asked about once more.

    In the same bytes a record is found by its line; in a source that was mended meanwhile by its id, and a row that could not be read,
    and so had none, by its line.
    """

    batch: str
    location: str  # of the source
    sha256: str  # of the source, then
    letters: list[Letter]
    found: set[Letter] = field(default_factory=set)

    @property
    def digest(self) -> str:
        """What makes this replay's batch another one than its source's."""
        return digest_of([self.batch, *sorted(f"{letter.line} {letter.attempt}" for letter in self.letters)])

    def picked(self, rows: Iterable[Record | Rejected], sha256: str) -> Iterator[tuple[Record | Rejected, int]]:
        """The rows that are asked about, and which attempt that is; what is never found is left in `missing`."""
        same = sha256 == self.sha256
        lines = {letter.line: letter for letter in self.letters if same or letter.code == Reason.UNREADABLE}
        ids = {} if same else {letter.id: letter for letter in self.letters if letter.code != Reason.UNREADABLE}
        for row in rows:
            letter = lines.get(row.line) or ids.get(row.id)
            if letter and letter not in self.found:
                self.found.add(letter)
                yield row, letter.attempt + 1

    def missing(self) -> list[Letter]:
        """Letters whose records are not in the source any more."""
        return [letter for letter in self.letters if letter not in self.found]


def letters_of(store: Store, process: str, batch: str, reason: Reason | None) -> Again:
    """The dead letters of a batch, or those of one reason.

    Raises:
        ValueError: no such batch, or it has no such letters.
    """
    found = find_batch(store, process, batch)
    letters = [letter for letter in _read(store, found.artifact) if reason in (None, letter.code)]
    if not letters:
        there = ", ".join(f"{code} {count}" for code, count in found.reasons.items()) or "none"
        raise ValueError(f"{batch} has no dead letters{f' of reason {reason}' if reason else ''}; it has: {there}")
    return Again(batch, found.location or found.source, found.source_sha256, letters)


def _read(store: Store, artifact: Artifact) -> Iterator[Letter]:
    with scratch() as folder, fetch_file(store, artifact, LETTERS, folder).open(encoding="utf-8") as stream:
        for line in stream:
            row = json.loads(line)
            yield Letter(row["record_id"], row["line"], row.get("code", Reason.NO_OUTPUT), row.get("attempt", 1))
