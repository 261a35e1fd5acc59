"""Watchdog: runs without a sign of life -> Crashed; crashed runs -> tried again, a bounded number of times."""

from datetime import UTC, datetime, timedelta

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun

from flows import pages, telling, turns
from flows.opening import run_name
from infra import deaths
from infra.settings import settings
from infra.store import open_store
from tasks import claims, retries
from tasks.declaration import load_process
from tasks.process import Process

BEGINS_WITHIN = timedelta(minutes=10)  # a run that a worker took and that shows no sign of life by then was lost with its worker
LOOKS_BACK = timedelta(hours=24)  # what crashed before is left to people
REPEATED = ("train", "score", "monitor", "backfill", "decide")  # the others come by themselves again


@flow(name="watchdog", flow_run_name=run_name, on_failure=[telling.tell_failure], on_crashed=[telling.tell_failure])
@turns.once
def watchdog(process: str) -> dict[str, list[str]]:
    """Mark runs that died without a word as crashed, so that they stand in nobody's way, and try crashed ones again.

    Args:
        process: Name of a declared process, a folder of data/processes.
    """
    declared = load_process(process, settings().processes)
    marked = mark_zombies(declared)
    again, given_up = retry_crashed(declared)
    pages.show_watch(marked, again, given_up, declared.name)
    telling.tell_deaths(marked, given_up, declared)
    return {"marked": marked, "tried again": again, "given up": given_up}


@task(task_run_name="mark-{process.name}", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=[1, 10])
def mark_zombies(process: Process) -> list[str]:
    """Runs that are under way by Prefect's word, and dead by the store's -> Crashed; their names. One that has ended stays as it ended."""
    store, names = open_store(), []
    with get_client(sync_client=True) as client:
        for claim in claims.silent_runs(store, process.name):
            found = deaths.run_of(client, claim.flow_run or "")
            says = f"no sign of life for more than {claim.lease_seconds:.0f} s; marked by the watchdog"
            if found and deaths.mark(client, found, says):
                names.append(found.name)
            claims.close(store, process.name, claim.flow_run or "")
        for found in deaths.stuck(client, process.name, datetime.now(UTC) - BEGINS_WITHIN):
            never = claims.read(store, claims.run_key(process.name, str(found.id)))[0] is None
            taken = found.state is not None and found.state.is_pending()  # also as Submitting, which is Pending by another name
            if (never or taken) and deaths.mark(client, found, "it never began; marked by the watchdog"):
                names.append(found.name)
    claims.forget_old(store, process.name)
    return names


@task(task_run_name="retry-{process.name}", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=[1, 10])
def retry_crashed(process: Process) -> tuple[list[str], list[str]]:
    """Crashed runs of deployments -> scheduled again; names of those, and of those that crashed too often."""
    again: list[str] = []
    given_up: list[str] = []
    with get_client(sync_client=True) as client:
        for found in deaths.crashed(client, process.name, REPEATED, datetime.now(UTC) - LOOKS_BACK):
            _retry(client, process, found, again, given_up)
    return again, given_up


def _retry(client: SyncPrefectClient, process: Process, found: FlowRun, again: list[str], given_up: list[str]) -> None:
    """Count first, so that a watchdog that dies in between rather tries too seldom than without end."""
    counted = retries.count(open_store(), process.name, str(found.id))
    if counted == "once more" and deaths.try_again(client, found):
        again.append(found.name)
    elif counted == "just given up":
        given_up.append(found.name)
