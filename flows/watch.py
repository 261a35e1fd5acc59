"""Watch: hints of what arrived -> the ledger, then an event for each flow that is due; Prefect automations start the runs.

A burst of objects is one event, and no event is sent while a run still waits to begin: it will take all that waits then. What the watcher
misses, or cannot tell while the Prefect server is away, the reconciler starts.
"""

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import httpx
from prefect.client.orchestration import get_client

from infra import dispatch, events
from infra.settings import settings
from infra.store import LocalStore, Store, open_store
from tasks import arrivals
from tasks.ledger import Arrival, Ledger
from tasks.process import Process

logger = logging.getLogger(__name__)

ARRIVED = {"score": "clerkflow.unlabelled.arrived", "train": "clerkflow.labelled.gathered"}  # flow -> the event that starts it
LOOK_SECONDS = 30.0  # without a hint, as long as something waits: the run that was to take it may have been lost
AGAIN_SECONDS = 5.0  # until the next try after the store or the Prefect server was away
TOLD = 50_000  # versions remembered as told, a process


@dataclass(slots=True)
class Watched:
    """One process, and what its watcher remembers."""

    process: Process
    ledger: Ledger = field(default_factory=Ledger)
    told: dict[str, set[str]] = field(default_factory=dict)  # flow -> versions that an event told of, or a waiting run will take
    looked: bool = False  # whether this look has no hint
    times: int = 0  # that something was told again
    at: float | None = None  # monotonic seconds when to look again without a hint


def watch_all(processes: list[Process], stop: threading.Event) -> None:
    """Watch the inboxes of these processes until stopped.

    Raises:
        ValueError: a bucket, but no token for the receiver; or mistakes in the settings.
        OSError: the store does not answer, or another program uses the receiver's address.
    """
    store, names = open_store(), [process.name for process in processes]
    local = isinstance(store, LocalStore)
    hints = events.folder_hints(store, names, stop) if local else events.bucket_hints(store, names, settings(), stop)  # type: ignore[arg-type]
    for _ in watch(store, processes, hints):
        pass


def watch(store: Store, processes: list[Process], hints: Iterable[set[str]]) -> Iterator[dict[str, list[str]]]:
    """Look into the inboxes that hints name, and tell Prefect what is due; gives, for each hint, process -> flows that were told."""
    watched = [Watched(process) for process in processes]
    for keys in hints:
        now = time.monotonic()
        touched = {key.partition("/")[0] for key in keys}
        due = [one for one in watched if touched & {one.process.name, events.CATCH_UP} or (one.at is not None and now >= one.at)]
        yield {one.process.name: _look(store, one) for one in due}


def _look(store: Store, one: Watched) -> list[str]:
    """Look into one inbox, and tell what is due; the flows that were told."""
    one.looked, one.at = one.at is not None and time.monotonic() >= one.at, None
    try:
        found = arrivals.survey(store, one.process, one.ledger)
        one.ledger = found.ledger
        if found.settling:
            one.at = time.monotonic() + one.process.arrivals.settle_seconds
        due = arrivals.due(store, one.process, found)
        if due and one.at is None:
            one.at = time.monotonic() + LOOK_SECONDS
        return [flow for flow, waiting in due.items() if _tell(one, flow, waiting)]
    except (OSError, ValueError, RuntimeError, httpx.HTTPError) as error:
        logger.warning("arrivals: %s is looked at again in %.0f s: %s", one.process.name, AGAIN_SECONDS, error)
        one.at = time.monotonic() + AGAIN_SECONDS
        return []


def _tell(one: Watched, flow: str, waiting: list[Arrival]) -> bool:
    """Tell of what was not told before, unless a run will take it anyway; whether an event was sent."""
    new = {arrival.place for arrival in waiting} - one.told.get(flow, set())
    if not new and not one.looked:
        return False
    runs = _runs(flow, one.process)
    if runs is None or (flow == "train" and runs["running"]):  # it may or may not have read the newest; looked at again when it is done
        return False
    if not new and not any(runs.values()):  # those that were told are lost
        one.times += 1
        new = {arrival.place for arrival in waiting} | {f"again {one.times}"}
    if new and not runs["waiting"]:
        key = max(waiting, key=lambda arrival: arrival.seen).key
        payload = {"process": one.process.name, "key": key, "objects": len(waiting)}
        events.emit(ARRIVED[flow], f"clerkflow.process.{one.process.name}", sorted(new), payload)
    one.told[flow] = {arrival.place for arrival in waiting[-TOLD:]}
    return bool(new) and not runs["waiting"]


def _runs(flow: str, process: Process) -> dict[str, int] | None:
    """Runs that wait and run; None when the flow has no deployment, so that nobody would listen."""
    with get_client(sync_client=True) as client:
        deployment = dispatch.deployment_of(client, flow, process.name)
        return dispatch.runs_of(client, deployment) if deployment else None
