"""Ledger: what became of each version of each object of inbox/ -> arrivals/<digest of key and etag>.json, one small object a version.

A version is pending until it is processed, quarantined (nothing can be done with it as a whole) or dead-lettered (tried too often, or
gone before it was taken). Writes are conditional: of two writers one wins, and the other goes on from what it says now.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.store import Conflict, MissingObject, ObjectInfo, Store
from infra.transfer import in_parallel
from tasks.process import Process, digest_of

logger = logging.getLogger(__name__)

Kind = Literal["labelled", "unlabelled"]
State = Literal["pending", "processed", "quarantined", "dead-lettered"]

TRIES = 8  # of a conditional write, each after another writer was faster
REASON_CHARACTERS = 500
UNFINISHED = (
    ".part",
    ".filepart",
    ".partial",
    ".crdownload",
    ".tmp",
    ".swp",
    "~",
)  # ends of names that copying programs use until they are done


class Arrival(BaseModel):
    """One version of an object of the inbox, and what became of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    etag: str
    size: int  # bytes
    seen: datetime  # first, UTC
    changed: datetime  # this entry, UTC
    state: State = "pending"
    kind: Kind | None = None  # None when that could not be told
    sha256: str = ""
    records: int = 0  # with an output; they count towards min_new_records
    reading: str = ""  # digest of the declared records and output that it was judged by
    attempts: int = 0  # runs that took it
    run: str | None = None  # that took it last
    batch: str | None = None  # that holds its predictions
    reason: str = ""  # why it is quarantined or a dead letter, or how the last attempt failed; without values
    gone: bool = False  # dead-lettered for that only

    @property
    def place(self) -> str:
        """The key of this entry."""
        return place_of(self.key, self.etag)


@dataclass(slots=True)
class Ledger:
    """All entries of a process, by key and etag; read again only where they changed."""

    arrivals: dict[tuple[str, str], Arrival] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)  # place -> what is wrong with it
    known: dict[str, tuple[str, Arrival]] = field(default_factory=dict)  # place -> etag of the entry, and the entry


def place_of(key: str, etag: str) -> str:
    """Where the ledger keeps a version of an object."""
    return f"{key.partition('/')[0]}/arrivals/{digest_of([key, etag])[:32]}.json"


def read_ledger(store: Store, name: str, before: Ledger | None = None) -> Ledger:
    """The ledger of a process; what `before` has read already and did not change is taken from it."""
    known = before.known if before else {}
    infos = list(store.list(f"{name}/arrivals/"))
    fresh = [info for info in infos if known.get(info.key, ("",))[0] != info.etag]
    ledger = Ledger(known={info.key: known[info.key] for info in infos if known.get(info.key, ("",))[0] == info.etag})
    for info, found in zip(fresh, in_parallel(lambda info: _parsed(store, info.key), fresh), strict=True):
        if isinstance(found, Arrival):
            ledger.known[info.key] = (info.etag, found)
        elif found:
            ledger.damaged[info.key] = found
    ledger.arrivals = {(arrival.key, arrival.etag): arrival for _, arrival in ledger.known.values()}
    return ledger


def _parsed(store: Store, place: str) -> Arrival | str:
    """An entry, or what is wrong with it."""
    try:
        arrival = Arrival.model_validate_json(store.read(place)[0])
    except MissingObject:
        return ""
    except ValidationError:
        return "is no entry of a ledger"
    return arrival if arrival.place == place else "is the entry of another object"


def enter(store: Store, arrival: Arrival) -> Arrival:
    """Make an entry, once; the entry that is there when another writer was faster.

    Raises:
        ValueError: there is an entry, but it cannot be read.
    """
    try:
        store.write(arrival.place, _bytes(arrival), if_absent=True)
    except Conflict:
        return _now(store, arrival)[0]
    return arrival


def move(store: Store, arrival: Arrival, change: Callable[[Arrival], dict[str, Any]]) -> Arrival:
    """Change a pending entry; one that is no longer pending stays as it is. The entry as it is now is returned.

    Args:
        change: gets the entry as it is now, and gives what differs; asked again when another writer was faster.

    Raises:
        Conflict: others were faster each time.
        ValueError: the entry cannot be read.
    """
    return _change(store, arrival, lambda now: change(now) if now.state == "pending" else None)


def reopen(store: Store, arrival: Arrival, judged: Arrival) -> Arrival:
    """Replace a judgement that was made by another declaration, or of an object that was gone and is back; nothing else moves backwards."""

    def change(now: Arrival) -> dict[str, Any] | None:
        outdated = now.reading != judged.reading and now.state in ("pending", "quarantined")
        if not (outdated or now.gone):
            return None
        return judged.model_dump(exclude={"key", "etag", "seen", "attempts"}) | {"gone": False}

    return _change(store, arrival, change)


def _change(store: Store, arrival: Arrival, change: Callable[[Arrival], dict[str, Any] | None]) -> Arrival:
    for _ in range(TRIES):
        now, etag = _now(store, arrival)
        update = change(now)
        if update is None:
            return now
        changed = Arrival.model_validate(now.model_dump() | update | {"changed": datetime.now(UTC)})
        try:
            store.write(changed.place, _bytes(changed), if_match=etag)
        except Conflict:
            continue
        return changed
    raise Conflict(f"{store.address(arrival.place)} was changed by others {TRIES} times; run it again")


def _now(store: Store, arrival: Arrival) -> tuple[Arrival, str]:
    data, etag = store.read(arrival.place)
    try:
        return Arrival.model_validate_json(data), etag
    except ValidationError:
        raise ValueError(f"{store.address(arrival.place)} is no entry of a ledger; remove it, and it is made anew") from None


def _bytes(arrival: Arrival) -> bytes:
    return arrival.model_dump_json(indent=1).encode() + b"\n"


def shortened(error: BaseException) -> str:
    """An error as a reason: its words, at most 500 characters."""
    return f"{type(error).__name__}: {error}"[:REASON_CHARACTERS]


# --- what stands in the inbox


def inbox_of(store: Store, name: str) -> Iterator[ObjectInfo]:
    """Objects of an inbox; hidden ones, and those whose name says that they are still being copied, are not there yet."""
    for info in store.list(f"{name}/inbox/"):
        base = info.key.rpartition("/")[2]
        if not base.startswith((".", "~$")) and not base.endswith(UNFINISHED):
            yield info


def is_settled(store: Store, info: ObjectInfo, process: Process) -> bool:
    """Whether an object is whole: in a folder, whether it was left alone for settle_seconds; a time in the future counts as old."""
    age = (datetime.now(UTC) - info.modified).total_seconds()
    return store.whole or not -1 < age < process.arrivals.settle_seconds


def settled_inbox(store: Store, process: Process) -> tuple[list[ObjectInfo], list[ObjectInfo]]:
    """Objects of the inbox that are whole, and those that are still written to, after waiting for them once, settle_seconds long."""
    infos = list(inbox_of(store, process.name))
    if not all(is_settled(store, info, process) for info in infos):
        time.sleep(process.arrivals.settle_seconds)
        infos = list(inbox_of(store, process.name))
    whole = [info for info in infos if is_settled(store, info, process)]
    return whole, [info for info in infos if info not in whole]
