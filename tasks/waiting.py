"""Waiting: review.jsonl and audit.jsonl of finished batches -> the records that wait for a person, in order, however many they are.

They lie in a database of this program's own, on disk, which is gone with it. Finished batches never change, so each is read once.
"""

import json
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from threading import RLock
from typing import overload

from infra.store import MissingObject, Store, copy_to
from tasks.artifacts import scratch
from tasks.reviews import AUDIT, item_id
from tasks.routing import AUDIT_FILE, FILE, Proposed

logger = logging.getLogger(__name__)

FILES = {"review": FILE, "audit": AUDIT_FILE}  # of a batch: what its manifest counts -> where it stands
PAGE = 1_000  # records that are read at once
TABLE = """
CREATE TABLE items (id TEXT PRIMARY KEY, audit INTEGER, since TEXT, batch TEXT, finished TEXT, line TEXT, done INTEGER);
CREATE INDEX in_order ON items (done, audit, since);
"""
PUT = """
INSERT INTO items VALUES (:id, :audit, :finished, :batch, :finished, :line, :done)
ON CONFLICT (id) DO UPDATE SET audit = excluded.audit, batch = excluded.batch, finished = excluded.finished, line = excluded.line
WHERE excluded.finished >= finished
"""  # the newest proposal, in the place of the first
WAITING = "FROM items WHERE done = 0"
ORDER = "audit, since, rowid"


@dataclass(frozen=True, slots=True)
class Item:
    """A record that waits for a person."""

    id: str
    batch: str
    proposed: Proposed


@dataclass(frozen=True, slots=True)
class Kept:
    """A finished batch, and its files with records for people."""

    prefix: str
    finished: str
    files: tuple[str, ...]


class Waiting(Sequence[Item]):
    """What waits in a process's batches, the oldest batch first, each record once, as it was proposed last.

    Answers that were accepted, and are only looked at, come behind all that wait for one.
    """

    def __init__(self, store: Store, process: str) -> None:
        self._store, self._batches = store, f"{process}/batches/"
        self._kept: dict[str, Kept] = {}  # manifest -> what its batch keeps for people
        self._taken: set[str] = set()  # prefixes of batches that are in the table
        self._done: AbstractSet[str] = frozenset()
        self._lock = RLock()
        self._rows = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._rows.executescript(TABLE)

    def refresh(self, done: AbstractSet[str]) -> None:
        """Take in the batches that are new; one that is damaged is left out with a warning, for the others need somebody, too.

        Args:
            done: ids of records that need nobody any more.
        """
        with self._lock:
            there = {kept.prefix: kept for kept in self._finished()}
            if not self._taken <= there.keys():  # some were tidied away, and with them what they proposed
                self._rows.execute("DELETE FROM items")
                self._taken.clear()
            self._mark(done)
            for kept in sorted((kept for prefix, kept in there.items() if prefix not in self._taken), key=lambda kept: kept.finished):
                try:
                    self._take(kept)
                except (MissingObject, ValueError, KeyError, TypeError) as error:
                    told = f"{kept.prefix} is left out, its rows cannot be read ({type(error).__name__})"
                    logger.warning("review: %s; score its file again, or delete it", told)
                self._taken.add(kept.prefix)

    def _mark(self, done: AbstractSet[str]) -> None:
        with self._rows:
            self._rows.execute("BEGIN")
            for value, ids in ((1, done - self._done), (0, self._done - done)):
                self._rows.executemany("UPDATE items SET done = ? WHERE id = ?", ((value, id) for id in ids))
        self._done = done

    def _take(self, kept: Kept) -> None:
        with scratch() as folder, self._rows:
            self._rows.execute("BEGIN")
            for name in kept.files:
                copy_to(self._store, kept.prefix + name, folder / name)
                with (folder / name).open(encoding="utf-8", newline="\n") as lines:
                    self._rows.executemany(PUT, self._put(kept, (line for line in lines if line.strip())))

    def _put(self, kept: Kept, lines: Iterable[str]) -> Iterator[dict[str, object]]:
        batch = kept.prefix.rstrip("/").rpartition("/")[2]
        for line in lines:
            row = json.loads(line)
            id = item_id(Proposed(**row).record_id, row["inputs"])
            usual = {"id": id, "batch": batch, "finished": kept.finished, "line": line}
            yield usual | {"audit": row["reason"] == AUDIT, "done": id in self._done}

    def _finished(self) -> Iterator[Kept]:
        """Each finished batch that keeps something for people."""
        for info in self._store.list(self._batches):
            if info.key.endswith("/manifest.json") and (kept := self._kept_by(info.key)) and kept.files:
                yield kept

    def _kept_by(self, key: str) -> Kept | None:
        if key not in self._kept:
            try:
                manifest = json.loads(self._store.read(key)[0])
            except (MissingObject, ValueError):
                return None
            files = tuple(name for count, name in FILES.items() if manifest.get(count))  # of batches made before there were audits one
            self._kept[key] = Kept(key.removesuffix("manifest.json"), manifest.get("finished", ""), files)
        return self._kept[key]

    def known(self, id: str) -> Item | None:
        """A record of any finished batch, whether it waits or not."""
        return next(iter(self._found("FROM items WHERE id = ?", id)), None)

    def place(self, id: str) -> int | None:
        """How many come before a record; None when it does not wait."""
        with self._lock:
            row = self._rows.execute(f"SELECT {ORDER} {WAITING} AND id = ?", (id,)).fetchone()
            return row and int(self._rows.execute(f"SELECT count(*) {WAITING} AND ({ORDER}) < (?, ?, ?)", row).fetchone()[0])

    def _found(self, where: str, *values: object) -> list[Item]:
        with self._lock:
            found = self._rows.execute(f"SELECT id, batch, line {where}", values).fetchall()
        return [Item(id, batch, Proposed(**json.loads(line))) for id, batch, line in found]

    def _at(self, place: int, count: int) -> list[Item]:
        return self._found(f"{WAITING} ORDER BY {ORDER} LIMIT ? OFFSET ?", count, place)

    def __len__(self) -> int:
        """How many wait."""
        with self._lock:
            return int(self._rows.execute(f"SELECT count(*) {WAITING}").fetchone()[0])

    def __iter__(self) -> Iterator[Item]:
        """All that wait; nothing may be refreshed meanwhile."""
        for place in range(0, len(self), PAGE):
            yield from self._at(place, PAGE)

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> list[Item]: ...
    def __getitem__(self, place: int | slice) -> Item | list[Item]:
        """What stands at a place."""
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        found = self._at(place if place >= 0 else len(self) + place, 1) if place >= -len(self) else []
        if not found:
            raise IndexError(place)
        return found[0]
