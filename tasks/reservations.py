"""Reservations: what a running publish or a moving alias needs is not collected, and neither begins while a collection deletes.

<process>/models/reservations/<random>.json   keys that somebody counts on
<process>/models/collection.json              held by whoever collects

Whoever counts on objects first writes a reservation and then looks for a collection; whoever collects first takes the
collection and then reads the reservations. So at least one of the two sees the other. Ages are told by the store's own clock.
"""

import json
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime

from infra.here import seconds
from infra.store import Conflict, MissingObject, ObjectInfo, Store

logger = logging.getLogger(__name__)

RESERVED_SECONDS = 24 * 3600.0  # a publisher that was killed is forgotten then
LEASE_SECONDS = 600.0  # a collector that was killed is forgotten then
DELETING_SECONDS = 120.0  # how long after renewing its lease a collector deletes: what is on its way then has time to arrive
RENEW_SECONDS = 30.0
POLL_SECONDS = 1.0


@contextmanager
def reserved(store: Store, process: str, keys: Iterable[str]) -> Iterator[None]:
    """Hold these keys: what is there when the body begins is still there when it ends.

    Raises:
        Conflict: a collection did not end in time.
    """
    key, content = f"{process}/models/reservations/{secrets.token_hex(8)}.json", json.dumps(sorted(keys)).encode()
    store.write(key, content)
    try:
        _wait_for_collection(store, process, lambda: _clock(store, key, content))
        yield
    finally:
        with suppress(OSError):  # it is forgotten after a while
            store.delete(key)


def _clock(store: Store, key: str, content: bytes) -> datetime:
    """The store's time, from an object written now."""
    store.write(key, content)
    return _known(store, key).modified


def _known(store: Store, key: str) -> ObjectInfo:
    info = store.stat(key)
    if info is None:
        raise MissingObject(f"{store.address(key)} was removed; do not touch models/reservations by hand")
    return info


def _wait_for_collection(store: Store, process: str, now: Callable[[], datetime]) -> None:
    end, told = time.monotonic() + LEASE_SECONDS + 60, False
    while time.monotonic() < end:
        lease = store.stat(collection_key(process))
        if lease is None or (now() - lease.modified).total_seconds() > LEASE_SECONDS:
            return
        if not told:
            logger.info("%s: waiting for a collection of old versions to end, %d s at most", process, LEASE_SECONDS)
            told = True
        time.sleep(POLL_SECONDS)
    raise Conflict(f"{process}: old versions are still being collected; try again when 'clerkflow gc' has ended")


def collection_key(process: str) -> str:
    """Key of the object that whoever collects holds."""
    return f"{process}/models/collection.json"


def reserved_keys(store: Store, process: str, now: datetime, tidy: bool = True) -> set[str]:
    """Keys that somebody counts on; reservations that are too old do not count, and are removed when `tidy`."""
    found: set[str] = set()
    for info in list(store.list(f"{process}/models/reservations/")):
        if (now - info.modified).total_seconds() > RESERVED_SECONDS:
            if tidy:
                store.delete(info.key)
            continue
        with suppress(MissingObject):  # its holder is done
            found |= set(json.loads(store.read(info.key)[0]))
    return found


class Lease:
    """The right to delete, as long as it is renewed; the time that this machine slept counts."""

    def __init__(self, store: Store, process: str, etag: str) -> None:
        self.store, self.key, self.etag, self.renewed = store, collection_key(process), etag, seconds()

    @property
    def started(self) -> datetime:
        """The store's time when the lease was last renewed."""
        return _known(self.store, self.key).modified

    def check(self) -> None:
        """To be called before each delete.

        Raises:
            Conflict: the lease is lost; nothing more may be deleted.
        """
        if seconds() - self.renewed > LEASE_SECONDS - DELETING_SECONDS:  # publishers may have taken it for a dead one's
            raise Conflict(f"{self.store.address(self.key)} was not renewed in time; nothing more is deleted, start again")
        if seconds() - self.renewed > RENEW_SECONDS:
            asked = seconds()
            self.etag = self.store.write(self.key, secrets.token_hex(8).encode(), if_match=self.etag)
            self.renewed = asked
        if seconds() - self.renewed > DELETING_SECONDS:
            raise Conflict(f"{self.store.address(self.key)} was not renewed in time; nothing more is deleted, start again")

    def release(self) -> None:
        """Let publishers go on."""
        with suppress(OSError):
            if self.store.read(self.key)[1] == self.etag:
                self.store.delete(self.key)


@contextmanager
def collecting(store: Store, process: str) -> Iterator[Lease]:
    """Hold the collection of a process; one at a time.

    Raises:
        Conflict: another collection runs, or was killed less than LEASE_SECONDS ago.
    """
    lease = Lease(store, process, _take(store, process))
    try:
        yield lease
    finally:
        lease.release()


def store_time(store: Store, process: str) -> datetime:
    """What the store's own clock says: all machines that use the store agree on it. From an object written now, and removed."""
    probe = f"{process}/models/reservations/{secrets.token_hex(8)}.json"
    try:
        return _clock(store, probe, b"[]")
    finally:
        store.delete(probe)


def _take(store: Store, process: str) -> str:
    key, mine = collection_key(process), secrets.token_hex(8).encode()
    try:
        return store.write(key, mine, if_absent=True)
    except Conflict:
        held = store.stat(key)
    if held is None:
        return store.write(key, mine, if_absent=True)
    age = (store_time(store, process) - held.modified).total_seconds()
    if age <= LEASE_SECONDS:
        raise Conflict(f"{process}: another collection runs, or was killed {age:.0f} s ago; try again in {LEASE_SECONDS - age:.0f} s")
    return store.write(key, mine, if_match=held.etag)
