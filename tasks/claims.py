"""Claims: who is at work on what -> one object for each thing that must be done once at a time.

<process>/claims/<flow>.json           a flow that works alone on a process
<process>/claims/runs/<flow run>.json  one run of Prefect's, which may be executed twice; also its sign of life for the watchdog
<process>/claims/batches/<batch>.json  one batch; also the rows of a declared table, from their copy until their answers are shown

A claim is taken, renewed and released by conditional writes. Its holder renews it; one that died, or sleeps, is overtaken when its lease
is over. A claim is given back, never removed, so its token only grows: the champion's alias keeps the largest, and refuses who holds less.
"""

import logging
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.here import here, is_alive
from infra.settings import settings
from infra.store import Conflict, MissingObject, ObjectInfo, Store
from infra.transfer import in_parallel

logger = logging.getLogger(__name__)

RENEWALS = 6  # in the time of a lease
TICK_SECONDS = 2.0  # what a store's clock may be off by rounding
POLL_SECONDS = 0.5
TRIES = 20  # of a conditional write, each after another one was faster
KEPT_SECONDS = 24 * 3600.0  # of a run's claim after its end
CLOCK = "clock.json"


class Hold(BaseModel):
    """The right to work, as its holder shows it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    token: int
    holder: str


class Claim(BaseModel):
    """Who holds, or held, a claim."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    token: int  # of how many takings this is
    holder: str  # random, so that nobody takes another's for his own
    run: str  # as people know it
    flow_run: str | None = None  # as Prefect knows it
    since: datetime  # UTC
    place: str  # the holder's process
    lease_seconds: float
    renewed: int = 0  # times; makes each renewal other bytes, so another etag
    released: datetime | None = None

    def as_bytes(self) -> bytes:
        """JSON."""
        return self.model_dump_json(indent=1).encode() + b"\n"


class Held(Conflict):
    """Somebody else is at work on it, and alive."""

    def __init__(self, key: str, claim: Claim) -> None:
        super().__init__(f"{claim.run} is at work on it since {claim.since:%Y-%m-%d %H:%M:%S} UTC ({key})")
        self.claim = claim


class Lost(Conflict):
    """Another one took the claim over: its holder was silent for longer than its lease."""


def flow_key(process: str, flow: str) -> str:
    """Key of the claim of a flow that works alone on a process."""
    return f"{process}/claims/{flow}.json"


def batch_key(process: str, batch: str) -> str:
    """Key of the claim of a batch."""
    return f"{process}/claims/batches/{batch}.json"


def run_key(process: str, flow_run: str) -> str:
    """Key of the claim of one of Prefect's flow runs."""
    return f"{process}/claims/runs/{flow_run}.json"


@contextmanager
def claimed(store: Store, key: str, run: str, flow_run: str | None = None, *, wait: bool = False, above: int = 0) -> Iterator[Hold]:
    """Hold a claim, and keep renewing it, while the body runs.

    Args:
        run: who takes it, as people know it.
        wait: for a holder that is alive, until it is done.
        above: the token will be larger than this, also when somebody removed the claim.

    Raises:
        Held: somebody else is at work, and shows signs of life.
    """
    claim, etag = take(store, key, run, flow_run, wait=wait, above=above)
    stop = threading.Event()
    keeper = threading.Thread(target=_keep, args=(store, key, claim, etag, stop), name=f"claim {key}", daemon=True)
    keeper.start()
    try:
        yield Hold(key=key, token=claim.token, holder=claim.holder)
    finally:
        stop.set()
        keeper.join()
        with suppress(OSError, Conflict):  # it is over with the lease
            _release(store, key, claim.holder)


def take(store: Store, key: str, run: str, flow_run: str | None = None, *, wait: bool = False, above: int = 0) -> tuple[Claim, str]:
    """Take a claim that is free, or whose holder is dead, and return it with its etag; its token is larger than any before.

    A holder on another machine is watched until it renews, or until its lease has passed on this machine's own clock.
    """
    watched, since = "", 0.0
    for _ in range(TRIES):
        while True:
            found, etag = read(store, key)
            if found is None or _is_free(store, key, found, first=not watched):
                break
            if (watched not in ("", etag) or is_alive(found.place)) and not wait:
                raise Held(key, found)
            if watched != etag:
                watched, since = etag, time.monotonic()
            elif time.monotonic() - since > found.lease_seconds + TICK_SECONDS:
                break
            time.sleep(POLL_SECONDS)
        mine = _mine(run, flow_run, max(found.token if found else 0, above))
        with suppress(Conflict):  # another one was faster: look again
            return mine, store.write(key, mine.as_bytes(), if_absent=found is None, if_match=etag or None)
    raise Conflict(f"{store.address(key)} was changed by others {TRIES} times; run it again")


def _mine(run: str, flow_run: str | None, before: int) -> Claim:
    return Claim(
        token=before + 1,
        holder=secrets.token_hex(8),
        run=run,
        flow_run=flow_run,
        since=datetime.now(UTC),
        place=here(),
        lease_seconds=settings().lease_seconds,
    )


def read(store: Store, key: str) -> tuple[Claim | None, str]:
    """A claim and its etag; None and nothing when nobody ever took it.

    Raises:
        ValueError: what stands there is no claim.
    """
    try:
        data, etag = store.read(key)
        return Claim.model_validate_json(data), etag
    except MissingObject:
        return None, ""
    except ValidationError:
        raise ValueError(f"{store.address(key)} is no claim; when nobody is at work, remove it") from None


def _is_free(store: Store, key: str, found: Claim, first: bool) -> bool:
    """Whether it was given back, its holder is known to be dead, or, at a first look, its lease is over by the store's clock."""
    if found.released or is_alive(found.place) is False:
        return True
    info = store.stat(key) if first else None
    return info is not None and is_silent(info, found, store_now(store, key.partition("/")[0]))


def is_silent(info: ObjectInfo, claim: Claim, now: datetime) -> bool:
    """Whether the holder has not renewed its claim for longer than its lease.

    Args:
        now: the store's time, as `store_now` says it.
    """
    return (now - info.modified).total_seconds() > claim.lease_seconds + TICK_SECONDS


def store_now(store: Store, process: str) -> datetime:
    """What the store's own clock says, which all machines agree on: the time of an object written now."""
    key = run_key(process, CLOCK.removesuffix(".json"))
    store.write(key, b"{}\n")
    info = store.stat(key)
    if info is None:
        raise MissingObject(f"{store.address(key)} was removed; do not touch claims/ by hand")
    return info.modified


def check(store: Store, hold: Hold | None) -> None:
    """That nobody has taken a claim over; whoever works without one is not asked.

    Raises:
        Lost: somebody has; nothing more may be written.
    """
    if hold is None:
        return
    now, _ = read(store, hold.key)
    if now is None or now.holder != hold.holder:
        who = f"{now.run} took it over at {now.since:%H:%M:%S} UTC" if now else "it was removed"
        raise Lost(f"{hold.key}: this run was silent for longer than its lease, and {who}; nothing more is written by this one")


def _keep(store: Store, key: str, claim: Claim, etag: str, stop: threading.Event) -> None:
    """Renew a claim until told to stop, or until it belongs to somebody else."""
    while not stop.wait(claim.lease_seconds / RENEWALS):
        renewed = claim.model_copy(update={"renewed": claim.renewed + 1})
        try:
            claim, etag = renewed, store.write(key, renewed.as_bytes(), if_match=etag)
        except Conflict:
            now, etag = _reread(store, key, etag)
            if now and now.holder != claim.holder:
                logger.warning("%s: %s took it over; this run writes nothing more", key, now.run)
                return
        except OSError as error:
            logger.warning("%s: not renewed, %s; tried again", key, type(error).__name__)


def _reread(store: Store, key: str, etag: str) -> tuple[Claim | None, str]:
    """The claim after a write that was refused; an answer that got lost makes a writer meet its own bytes."""
    try:
        now, found = read(store, key)
    except (OSError, ValueError):
        return None, etag
    return now, found or etag


def _release(store: Store, key: str, holder: str) -> None:
    now, etag = read(store, key)
    if now and now.holder == holder:
        store.write(key, now.model_copy(update={"released": datetime.now(UTC)}).as_bytes(), if_match=etag)


# --- what the watchdog sees


def silent_runs(store: Store, process: str) -> list[Claim]:
    """Claims of flow runs that were neither given back nor renewed in time."""
    now = store_now(store, process)
    infos = [info for info in store.list(f"{process}/claims/runs/") if not info.key.endswith(f"/{CLOCK}")]

    def silent(info: ObjectInfo) -> Claim | None:
        with suppress(ValueError):
            claim, _ = read(store, info.key)
            if claim and not claim.released and is_silent(info, claim, now):
                return claim
        return None

    return [claim for claim in in_parallel(silent, infos) if claim]


def close(store: Store, process: str, flow_run: str) -> None:
    """Give back the claim of a run that is known to be over; nothing happens when somebody took it meanwhile."""
    claim, _ = read(store, run_key(process, flow_run))
    if claim:
        with suppress(Conflict):
            _release(store, run_key(process, flow_run), claim.holder)


def forget_old(store: Store, process: str) -> int:
    """Remove claims of runs that ended long ago, so that they do not pile up; how many."""
    now, removed = store_now(store, process), 0
    for info in list(store.list(f"{process}/claims/runs/")):
        if (now - info.modified).total_seconds() > KEPT_SECONDS and not info.key.endswith(f"/{CLOCK}"):
            claim, _ = read(store, info.key)
            if claim and claim.released:
                store.delete(info.key)
                removed += 1
    return removed
