"""Replays: the dead letters of a finished batch -> which records of its source, as it is now, are asked about again."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from infra.store import Store
from tasks.batches import Batch, find_batch
from tasks.process import digest_of
from tasks.reasons import Reason
from tasks.records import Record, Rejected
from tasks.rows import Facts, known_as, rows_in, rows_of
from tasks.sinks import LETTERS
from tasks.words import REVIEWED


@dataclass(frozen=True, slots=True)
class Letter:
    """What is needed of a dead letter to find its record again."""

    id: str
    line: int
    code: str
    attempt: int
    content: str = ""  # digest of what the record held, where only that tells it from others with its id


@dataclass(frozen=True, slots=True)
class Earlier:
    """The records of a batch, and of those that it replays, by what their ids are known as."""

    ids: set[str]
    lines: Mapping[str, set[int]]  # of dead letters' ids only: where their records stood in the batch's source


class Picked(NamedTuple):
    """A row of the source as it is now."""

    row: Record | Rejected
    attempt: int  # from 1; 0 when it is not asked about
    known: bool  # whether it is asked about, or was a record of the batch


Told = Callable[[Record], str]  # what a dead letter of a record would hold


class Held:
    """Letters of records whose id another one had, by what they held: under their id, or at their line."""

    def __init__(self, letters: Iterable[Letter]) -> None:
        self._waiting: dict[tuple[str | int, str], deque[Letter]] = {}
        self._near = set[str | int]()
        for letter in letters:
            for place in (known_as(letter.id), letter.line):
                self._near.add(place)
                self._waiting.setdefault((place, letter.content), deque()).append(letter)

    def letter(self, row: Record | Rejected, told: Told) -> Letter | None:
        """The letter of a record, once."""
        places = [place for place in (known_as(row.id), row.line) if place in self._near]
        if not places or not isinstance(row, Record):
            return None
        content = digest_of(told(row))
        return next((waiting.popleft() for place in places if (waiting := self._waiting.get((place, content)))), None)


Find = Callable[[Record | Rejected], Letter | None]


@dataclass(slots=True)
class Again:
    """The dead letters of a batch that are asked about once more.

    In the same bytes a record is found by its line. In a source that was mended meanwhile it is found by its id: of several with one id
    the second is the one that was the second. One whose id another record had is found by what it held, under that id or at its line
    under one of its own. A row that could not be read, and so had no id, is found by its line, unless a record stands there now that the
    batch knew: then rows have moved, and which one it is cannot be told.
    """

    batch: str
    location: str  # of the source
    sha256: str  # of the source, then
    letters: list[Letter]
    earlier: Callable[[], Earlier]
    found: set[Letter] = field(default_factory=set)

    @property
    def digest(self) -> str:
        """What makes this replay's batch another one than its source's."""
        return digest_of([self.batch, *sorted(f"{letter.line} {letter.attempt}" for letter in self.letters)])

    def picked(self, rows: Iterable[Record | Rejected], sha256: str, told: Told) -> Iterator[Picked]:
        """All rows, and which of them are asked about; what is never found is left in `missing`."""
        mended = sha256 != self.sha256
        earlier = self.earlier() if mended else Earlier(set(), {})
        find = self._in_mended(earlier, told) if mended else self._in_same_bytes()
        for row in rows:
            if (letter := find(row)) and letter not in self.found:
                self.found.add(letter)
                yield Picked(row, letter.attempt + 1, True)
            else:
                yield Picked(row, 0, not mended or known_as(row.id) in earlier.ids)

    def _in_same_bytes(self) -> Find:
        lines = {letter.line: letter for letter in self.letters if letter.code != Reason.GONE}  # those were not in these bytes
        return lambda row: lines.get(row.line)

    def _in_mended(self, earlier: Earlier, told: Told) -> Find:
        held = Held(letter for letter in self.letters if letter.code == Reason.DOUBLED_ID)
        lines = {letter.line: letter for letter in self.letters if letter.code == Reason.UNREADABLE}
        others = [letter for letter in self.letters if letter.code not in (Reason.UNREADABLE, Reason.DOUBLED_ID)]
        ids, met = {_place(letter, earlier): letter for letter in others}, Counter[str]()

        def find(row: Record | Rejected) -> Letter | None:
            id = known_as(row.id)
            if id in earlier.lines:
                met[id] += 1
            moved = isinstance(row, Record) and id in earlier.ids
            return ids.get((id, met[id])) or held.letter(row, told) or (None if moved else lines.get(row.line))

        return find

    def missing(self) -> list[Letter]:
        """Letters whose records are not in the source any more."""
        return [letter for letter in self.letters if letter not in self.found]


def _place(letter: Letter, earlier: Earlier) -> tuple[str, int]:
    """A letter's id, and which of the records with that id it was, from 1."""
    id = known_as(letter.id)
    return id, 1 + sum(line < letter.line for line in earlier.lines[id])


def letters_of(store: Store, process: str, batch: str, reason: Reason | None) -> Again:
    """The dead letters of a batch, or those of one reason; never those whose record is answered elsewhere in it.

    Raises:
        ValueError: no such batch, or it has no such letters, or no model gave its answers.
    """
    found = find_batch(store, process, batch)
    if batch.startswith(f"{REVIEWED}-"):
        raise ValueError(f"{batch} holds what people said, no model is asked for that; replay the batch that they looked at")
    there = map(_letter, rows_in(store, found.artifact, LETTERS))
    letters = [letter for letter in there if reason in (None, letter.code) and letter.code != Reason.REPEATED]
    if not letters:
        has = ", ".join(f"{code} {count}" for code, count in found.reasons.items()) or "none"
        has += f" ({Reason.REPEATED}: answered where the row stood first)" if Reason.REPEATED in found.reasons else ""
        raise ValueError(f"{batch} has no dead letters to replay{f' of reason {reason}' if reason else ''}; it has: {has}")
    earlier = partial(_earlier, store, process, found, {known_as(letter.id) for letter in letters})
    return Again(batch, found.location or found.source, found.source_sha256, letters, earlier)


def _letter(row: Facts) -> Letter:
    code = row.get("code", Reason.NO_OUTPUT)
    held = digest_of(row["content"]) if code == Reason.DOUBLED_ID else ""
    return Letter(row["record_id"], row["line"], code, row.get("attempt", 1), held)


def _earlier(store: Store, process: str, batch: Batch, letters: set[str]) -> Earlier:
    """Every record of a batch; a replay knows only its letters, so those of the batches before it count, too, as far as they are kept."""
    ids, lines = set[str](), {id: set[int]() for id in letters}
    for told in _line_of(store, process, batch):
        for _, row in rows_of(store, told.artifact):
            ids.add(id := known_as(row["record_id"]))
            if id in lines and told.source_sha256 == batch.source_sha256:
                lines[id].add(int(row["line"]))
    return Earlier(ids, lines)


def _line_of(store: Store, process: str, batch: Batch) -> Iterator[Batch]:
    """A batch, the one that it replays, and so on."""
    yield batch
    with suppress(ValueError):
        while batch.replay_of:
            yield (batch := find_batch(store, process, batch.replay_of))
