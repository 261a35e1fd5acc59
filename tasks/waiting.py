"""Waiting: review.jsonl and audit.jsonl of finished batches -> the records that wait for a person, in order, however many they are.

They lie in a database of this program's own, on disk, which is gone with it. What a batch proposes is read once, line by line, and again
when the batch is another one.
"""

import json
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import overload

from infra.store import MissingObject, Store, copy_to
from tasks.artifacts import scratch
from tasks.reviews import AUDIT, item_id
from tasks.routing import AUDIT_FILE, FILE, Proposed

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FILES = {"review": FILE, "audit": AUDIT_FILE}  # of a batch: what its manifest counts -> where it stands
PAGE = 1_000  # records that are read at once
TABLES = """
CREATE TABLE proposals (number INTEGER PRIMARY KEY, id TEXT, batch TEXT, finished TEXT, audit INTEGER, line TEXT);
CREATE INDEX by_record ON proposals (id, finished, number);
CREATE INDEX by_batch ON proposals (batch);
CREATE TABLE items (id TEXT PRIMARY KEY, audit INTEGER, since TEXT, first INTEGER, number INTEGER, done INTEGER);
CREATE INDEX in_order ON items (done, audit, since, first);
CREATE TABLE touched (id TEXT PRIMARY KEY);
"""
PUT = "INSERT INTO proposals (id, batch, finished, audit, line) VALUES (?, ?, ?, ?, ?)"
TOUCH = "INSERT OR IGNORE INTO touched SELECT id FROM proposals WHERE batch = ?"
RENEW = (
    "DELETE FROM items WHERE id IN touched",
    """
    INSERT INTO items SELECT newest.id, newest.audit, oldest.finished, oldest.number, newest.number, is_done(newest.id)
    FROM touched
    JOIN proposals newest ON newest.number =
        (SELECT number FROM proposals WHERE id = touched.id ORDER BY finished DESC, number DESC LIMIT 1)
    JOIN proposals oldest ON oldest.number =
        (SELECT number FROM proposals WHERE id = touched.id ORDER BY finished, number LIMIT 1)
    """,
    "DELETE FROM touched",
)  # each record as it was proposed last, in the place where it stood first
WAITING, ORDER = "FROM items WHERE done = 0", "items.audit, since, first"
BY_ID = "SELECT items.id, batch, line FROM items JOIN proposals USING (number) WHERE items.id = ?"
IN_ORDER = BY_ID.replace("items.id = ?", f"done = 0 ORDER BY {ORDER} LIMIT ? OFFSET ?")


@dataclass(frozen=True, slots=True)
class Item:
    """A record that waits for a person."""

    id: str
    batch: str
    proposed: Proposed


@dataclass(frozen=True, slots=True)
class View:
    """One moment of what waits, seen from a record."""

    count: int  # of all that wait
    first: str  # ids; empty where there is none
    item: Item | None = None  # the record, where it waits
    place: int = 0  # of the record, from 0
    before: str = ""
    after: str = ""

    @property
    def following(self) -> str:
        """What a person is shown when the record is done with: the one behind it, and the first behind the last."""
        return self.after or (self.first if self.item is None or self.item.id != self.first else "")


class Waiting(Sequence[Item]):
    """What waits in a process's batches, the oldest batch first, each record once, as it was proposed last.

    Answers that were accepted, and are only looked at, come behind all that wait for one.
    """

    def __init__(self, store: Store, process: str) -> None:
        self.lock = RLock()
        self._store, self._batches = store, f"{process}/batches/"
        self._taken: dict[str, tuple[str | None, ...]] = {}  # batch -> the etags of what was read of it
        self._done: AbstractSet[str] = frozenset()
        self._rows = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._rows.create_function("is_done", 1, lambda id: id in self._done)
        self._rows.executescript(TABLES)

    def refresh(self, done: AbstractSet[str]) -> None:
        """Take in batches that are new or changed; one that is damaged is left out with a warning, for the others need somebody, too.

        Args:
            done: ids of records that need nobody any more.
        """
        with self.lock:
            self._mark(done)
            there = self._finished()
            for batch in self._taken.keys() - there.keys():
                self._drop(batch)
            new = [(batch, etags, self._kept_by(batch)) for batch, etags in there.items() if self._taken.get(batch) != etags]
            for batch, etags, (finished, files) in sorted(new, key=lambda each: each[2][0]):
                if batch in self._taken:
                    self._drop(batch)
                self._take(batch, finished, files)
                self._taken[batch] = etags

    def _finished(self) -> dict[str, tuple[str | None, ...]]:
        """Each finished batch, and the etags of what is read of it."""
        found: dict[str, dict[str, str]] = {}
        for info in self._store.list(self._batches):
            batch, _, name = info.key.removeprefix(self._batches).partition("/")
            if name in (MANIFEST, *FILES.values()):
                found.setdefault(batch, {})[name] = info.etag
        return {batch: tuple(map(names.get, (MANIFEST, *FILES.values()))) for batch, names in found.items() if MANIFEST in names}

    def _kept_by(self, batch: str) -> tuple[str, list[str]]:
        """When a batch was finished, and its files with records for people."""
        try:
            manifest = json.loads(self._store.read(f"{self._batches}{batch}/{MANIFEST}")[0])
            return str(manifest.get("finished") or ""), [name for count, name in FILES.items() if manifest.get(count)]
        except (MissingObject, ValueError, AttributeError) as error:
            self._warn(batch, error)
            return "", []

    def _warn(self, batch: str, error: Exception) -> None:
        told = f"{self._batches}{batch}/ is left out, it cannot be read ({type(error).__name__})"
        logger.warning("review: %s; score its file again, or delete it", told)

    @contextmanager
    def _as_one(self) -> Iterator[None]:
        """All of it happens, or nothing.

        Raises:
            OSError: there is no room for it.
        """
        try:
            with self._rows:
                self._rows.execute("BEGIN")
                yield
        except sqlite3.OperationalError as error:
            raise OSError(f"what waits cannot be kept on this machine's disk: {error}; make room, or set SQLITE_TMPDIR") from None

    def _mark(self, done: AbstractSet[str]) -> None:
        changed = done ^ self._done
        with self._as_one():
            self._rows.executemany("UPDATE items SET done = ? WHERE id = ?", ((id in done, id) for id in changed))
        self._done = done

    def _drop(self, batch: str) -> None:
        with self._as_one():
            self._rows.execute(TOUCH, (batch,))
            self._rows.execute("DELETE FROM proposals WHERE batch = ?", (batch,))
            self._renew()
        del self._taken[batch]

    def _take(self, batch: str, finished: str, files: Iterable[str]) -> None:
        try:
            with scratch() as folder, self._as_one():
                for name in files:
                    copy_to(self._store, f"{self._batches}{batch}/{name}", folder / name)
                    with (folder / name).open(encoding="utf-8", newline="\n") as lines:
                        self._rows.executemany(PUT, _proposals(batch, finished, lines))
                self._rows.execute(TOUCH, (batch,))
                self._renew()
        except (MissingObject, ValueError, KeyError, TypeError, RecursionError) as error:
            self._warn(batch, error)

    def _renew(self) -> None:
        for statement in RENEW:
            self._rows.execute(statement)

    def view(self, id: str) -> View:
        """What waits, seen from a record, which may not wait; empty: from none."""
        with self.lock:
            count, place = len(self), self.place(id)
            first = next((item.id for item in self._at(0, 1)), "")
            if place is None:
                return View(count, first)
            near = self._at(max(0, place - 1), 3)
            at = min(place, 1)
            before, after = (each[0].id if each else "" for each in (near[:at], near[at + 1 : at + 2]))
            return View(count, first, near[at], place, before, after)

    def known(self, id: str) -> Item | None:
        """A record of any finished batch, whether it waits or not."""
        return next(iter(self._found(BY_ID, id)), None)

    def place(self, id: str) -> int | None:
        """How many come before a record; None when it does not wait."""
        with self.lock:
            row = self._rows.execute(f"SELECT {ORDER} {WAITING} AND id = ?", (id,)).fetchone()
            return row and int(self._rows.execute(f"SELECT count(*) {WAITING} AND ({ORDER}) < (?, ?, ?)", row).fetchone()[0])

    def _found(self, query: str, *values: object) -> list[Item]:
        with self.lock:
            found = self._rows.execute(query, values).fetchall()
        return [Item(id, batch, Proposed(**json.loads(line))) for id, batch, line in found]

    def _at(self, place: int, count: int) -> list[Item]:
        return self._found(IN_ORDER, count, place)

    def __len__(self) -> int:
        """How many wait."""
        with self.lock:
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


def _proposals(batch: str, finished: str, lines: Iterable[str]) -> Iterator[tuple[object, ...]]:
    for line in lines:
        if line.strip():
            proposed = Proposed(**json.loads(line))
            yield item_id(proposed.record_id, proposed.inputs), batch, finished, proposed.reason == AUDIT, line
