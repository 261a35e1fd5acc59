"""Serve: declared processes -> one Prefect deployment for each flow and process, on its schedule and for what arrives.

Applying them again updates them in place, and takes away those of ours that are declared no longer. Collisions, one run at a time for each:
train and score wait (ENQUEUE): a run that a person or an event asked for is not lost, and the one that waits takes all that gathered
meanwhile. monitor, reconcile and tidy give way (CANCEL_NEW): the next one on the schedule sees the same. The watchdog has no limit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect import serve
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType

from flows.backfill import backfill
from flows.decide import decide
from flows.monitor import monitor
from flows.reconcile import reconcile
from flows.score import score
from flows.tidy import tidy
from flows.train import train
from flows.tune import tune
from flows.watch import ARRIVED
from flows.watchdog import watchdog
from infra.dispatch import SERVED, STARTS_WITHIN_SECONDS, TAG, our_deployments, server_answers
from tasks.process import Process

FLOWS: dict[str, Any] = {
    "train": train,
    "score": score,
    "monitor": monitor,
    "reconcile": reconcile,
    "backfill": backfill,
    "decide": decide,
    "tune": tune,
    "watchdog": watchdog,
    "tidy": tidy,
}
WAITS, GIVES_WAY = ConcurrencyLimitStrategy.ENQUEUE, ConcurrencyLimitStrategy.CANCEL_NEW
COLLISIONS = {"monitor": GIVES_WAY, "reconcile": GIVES_WAY, "tidy": GIVES_WAY}  # all others wait


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of one deployment: made, updated, or removed."""

    name: str  # flow/deployment
    change: str
    id: UUID


def deployments_of(process: Process, served: bool = False) -> list[RunnerDeployment]:
    """One deployment a flow, named after the process; those without a schedule run from the UI, on demand, or when something arrives.

    Args:
        served: for the in-process runner: the same under another name, because Prefect cannot let one name be both.
    """
    return [
        flow.to_deployment(
            name=process.name + SERVED * served,
            schedules=[Cron(cron)] if (cron := getattr(process.schedules, name, None)) else [],
            paused=False if served else None,  # the runner pauses what it served when it stops; what a person paused stays so
            parameters={"process": process.name},
            triggers=triggers_of(name, process),
            tags=[TAG, process.name, f"owner:{process.owner}"],
            description=f"{name} {process.name}. {process.description}".strip(),
            version=str(process.version),
            concurrency_limit=limit_of(name),
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        for name, flow in FLOWS.items()
    ]


def limit_of(flow: str) -> ConcurrencyLimitConfig | None:
    """One run at a time; but nothing may keep the watchdog from finding that the watchdog died."""
    strategy = COLLISIONS.get(flow, WAITS)
    return (
        None
        if flow == "watchdog"
        else ConcurrencyLimitConfig(limit=1, collision_strategy=strategy, grace_period_seconds=STARTS_WITHIN_SECONDS)
    )


def triggers_of(flow: str, process: Process) -> list[DeploymentEventTrigger]:
    """The automation that starts a flow when the watcher tells of arrivals."""
    if flow not in ARRIVED:
        return []
    return [
        DeploymentEventTrigger(
            name=f"{TAG}: {flow} {process.name} when something arrives",
            description="Made from the declaration by `clerkflow deploy`; a change here is lost.",
            expect={ARRIVED[flow]},
            match={"prefect.resource.id": f"clerkflow.process.{process.name}"},
            parameters={"process": process.name, "arrived": "{{ event.payload['key'] }}"},
        )
    ]


def deploy(processes: list[Process], pool: str, everything: bool = True) -> list[Applied]:
    """Make or update the deployments for the workers of a pool, which is made when missing, and remove what is declared no longer.

    Args:
        everything: whether these are all the processes there are; else only what belongs to these is removed.

    Raises:
        ValueError: no Prefect server answers, or the pool is not one that workers run.
    """
    server_answers()
    with get_client(sync_client=True) as client:
        make_pool(client, pool)
        return apply(client, processes, everything, lambda deployment: deployment.apply(work_pool_name=pool))  # type: ignore[arg-type, return-value]


def apply(
    client: SyncPrefectClient, processes: list[Process], everything: bool, put: Callable[[RunnerDeployment], UUID], served: bool = False
) -> list[Applied]:
    """Make or update each deployment, then remove those of ours that none of these replaces."""
    known = {deployment.id for deployment in our_deployments(client)}
    applied = []
    for process in processes:
        for deployment in deployments_of(process, served):
            id = put(deployment)
            applied.append(Applied(deployment.full_name, "updated" if id in known else "made", id))
    return applied + remove_others(client, {one.id for one in applied}, None if everything else {process.name for process in processes})


def remove_others(client: SyncPrefectClient, wanted: set[UUID], only: set[str] | None) -> list[Applied]:
    """Remove our deployments, with their automations, but for the wanted ones.

    Args:
        only: names of processes whose deployments may go; all when None.
    """
    removed = []
    for deployment in our_deployments(client):
        if deployment.id in wanted or (only is not None and deployment.name.removesuffix(SERVED) not in only):
            continue
        client.delete_resource_owned_automations(f"prefect.deployment.{deployment.id}")
        client.delete_deployment(deployment.id)
        flow = (deployment.entrypoint or "").rpartition(".")[2]
        removed.append(Applied(f"{flow}/{deployment.name}", "removed", deployment.id))
    return removed


def make_pool(client: SyncPrefectClient, pool: str) -> None:
    """Make a pool for process workers when there is none of this name.

    Raises:
        ValueError: there is one, but no worker can run it (a push or managed pool).
    """
    try:
        there = client.read_work_pool(pool)
    except ObjectNotFound:
        from prefect.workers.process import ProcessWorker

        template = ProcessWorker.get_default_base_job_template()
        try:
            client.create_work_pool(WorkPoolCreate(name=pool, type="process", base_job_template=template))
        except ObjectAlreadyExists:  # somebody else was faster
            return
    else:
        if there.is_push_pool or there.is_managed_pool:
            raise ValueError(f"work pool {pool!r} is of type {there.type}, which no worker of yours runs; name another with --pool")


def serve_all(processes: list[Process], everything: bool = True) -> None:
    """Make the deployments and run in this process what they ask for, until stopped.

    Raises:
        ValueError: no Prefect server answers; the message says how to start one.
    """
    server_answers()
    with get_client(sync_client=True) as client:
        apply(client, processes, everything, lambda deployment: deployment.apply(), served=True)  # type: ignore[arg-type, return-value]
    serve(*[deployment for process in processes for deployment in deployments_of(process, served=True)])
