"""Dispatch: what a Prefect server knows of our deployments' runs, and starting one."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

TAG = "clerkflow"  # on everything that is ours
STARTS_WITHIN_SECONDS = 120  # a run that a worker took and has not begun by then was lost with its worker, and gives its place back
PAGE = 200  # what a server gives at once
SERVED = ".served"  # end of a deployment's name that no worker, but `clerkflow serve` runs: one name must not be both


def our_deployments(client: "SyncPrefectClient") -> "list[DeploymentResponse]":
    """Deployments with our tag whose entrypoint is one of our flows."""
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags

    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
    found: list[DeploymentResponse] = []
    while page := client.read_deployments(deployment_filter=ours, limit=PAGE, offset=len(found)):
        found += page
    return [deployment for deployment in found if (deployment.entrypoint or "").startswith("flows.")]


def deployment_of(client: "SyncPrefectClient", flow: str, process: str) -> "DeploymentResponse | None":
    """The deployment of a flow for a process, a worker's or a served one; None when there is none."""
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName, DeploymentFilterTags, FlowFilter, FlowFilterName

    names = DeploymentFilter(name=DeploymentFilterName(any_=[process, process + SERVED]), tags=DeploymentFilterTags(all_=[TAG]))
    found = client.read_deployments(flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])), deployment_filter=names, limit=2)
    return found[0] if found else None


def runs_of(client: "SyncPrefectClient", deployment: "DeploymentResponse") -> dict[str, int]:
    """How many runs of a deployment are `waiting` to begin now, and how many are `running`.

    Those of a schedule's future are neither, nor are those that a killed worker had taken and never began.
    """
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterId,
        FlowRunFilter,
        FlowRunFilterExpectedStartTime,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType

    now = datetime.now(UTC)
    state = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING]))
    begun = FlowRunFilterExpectedStartTime(before_=now + timedelta(seconds=2))
    found = client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id])),
        flow_run_filter=FlowRunFilter(state=state, expected_start_time=begun),
        limit=PAGE,
    )
    lost = now - timedelta(seconds=STARTS_WITHIN_SECONDS)
    states = [run.state for run in found if run.state and not (run.state.is_pending() and run.state.timestamp < lost)]
    waiting = sum(state.is_scheduled() for state in states)
    return {"waiting": waiting, "running": len(states) - waiting}


def start(client: "SyncPrefectClient", deployment: "DeploymentResponse", parameters: dict[str, Any]) -> str:
    """Start a run now, and give its name."""
    return client.create_flow_run_from_deployment(deployment.id, parameters=parameters, tags=[TAG]).name


def server_answers() -> None:
    """Make sure of a server that outlives this process; an ephemeral one would forget schedules.

    Raises:
        ValueError: there is none, and how to start one.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    address = PREFECT_API_URL.value()
    remedy = "start one with '.venv/bin/prefect server start' and set PREFECT_API_URL=http://127.0.0.1:4200/api"
    if not address:
        raise ValueError(f"PREFECT_API_URL is not set: {remedy}")
    try:
        with get_client(sync_client=True) as client:
            client.read_flows(limit=1)
    except httpx.HTTPError as error:
        raise ValueError(f"no Prefect server answers at {address} ({type(error).__name__}): {remedy}") from None
