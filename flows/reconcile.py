"""Reconcile: inbox against ledger -> what was missed is started; an alarm when a version is unknown."""

import logging
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.states import Failed

from flows import pages, turns
from flows.opening import run_name
from infra import dispatch
from infra.events import emit
from infra.settings import settings
from infra.store import Store, open_store
from tasks import arrivals, lessons
from tasks.declaration import load_process
from tasks.process import Process

logger = logging.getLogger(__name__)

ALARM = "clerkflow.alarm"


@flow(name="reconcile", flow_run_name=run_name)
@turns.once
def reconcile(process: str) -> Any:
    """Start what events have missed, and check that every version of every object of the inbox is accounted for.

    Args:
        process: Name of a declared process, a folder of data/processes.
    """
    declared = load_process(process, settings().processes)
    counts, due = look(declared)
    counts["started"] = start_missed(declared, due)
    pages.show_arrivals(counts, declared.name)
    return sound_alarm(declared, counts) if counts["unknown"] else counts


@task(task_run_name="look-{process.name}", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=[1, 10])
def look(process: Process) -> tuple[dict[str, Any], dict[str, str]]:
    """Bring the ledger up to date: its counts, and flow -> the key of the first object that it should be started for, or reviews/."""
    store = open_store()
    with get_client(sync_client=True) as client:
        under_way = [flow for flow in ("score", "train") if any(_runs(client, flow, process).values())]
    found = arrivals.reconcile(store, process, under_way)
    due = arrivals.due(store, process, found, reviewed_in(store, process))
    first = {flow: waiting[0].key if waiting else f"{process.name}/reviews/" for flow, waiting in due.items()}
    return found.counts | {"reasons": found.unknown | found.ledger.damaged}, first


def reviewed_in(store: Store, process: Process) -> int:
    """Reviewed records that wait to be learned from; none where a word is damaged: that keeps nothing else from being started."""
    try:
        return lessons.to_learn(store, process)
    except ValueError as error:
        logger.warning("reconcile: reviews of %s start no training: %s", process.name, error)
        return 0


def start_missed(process: Process, due: dict[str, str]) -> list[str]:
    """Start the flows that are due and neither wait nor run already; those without a deployment are left to a person."""
    started = []
    with get_client(sync_client=True) as client:
        for name, key in due.items():
            deployment = dispatch.deployment_of(client, name, process.name)
            if deployment and not any(dispatch.runs_of(client, deployment).values()):
                dispatch.start(client, deployment, {"process": process.name, "arrived": key})
                started.append(name)
    return started


def _runs(client: Any, flow: str, process: Process) -> dict[str, int]:
    deployment = dispatch.deployment_of(client, flow, process.name)
    return dispatch.runs_of(client, deployment) if deployment else {}


def sound_alarm(process: Process, counts: dict[str, Any]) -> Any:
    """A failed state named Alarm, and an event that automations can pass on; the reasons hold no row values."""
    reasons = "; ".join(f"{key}: {reason}" for key, reason in list(counts["reasons"].items())[:5])
    numbers = {name: value for name, value in counts.items() if isinstance(value, int)}
    emit(ALARM, f"clerkflow.process.{process.name}", [str(sorted(numbers.items())), reasons], numbers | {"process": process.name})
    told = ", ".join(f"{value} {name}" for name, value in numbers.items())
    return Failed(name="Alarm", message=f"{process.name}: the ledger does not account for every object of the inbox: {told}. {reasons}")
