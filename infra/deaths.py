"""Deaths: what a Prefect server knows of runs that crashed or hang, and marking and starting them again."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from infra.dispatch import PAGE, SERVED, TAG

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun


def run_of(client: "SyncPrefectClient", id: str) -> "FlowRun | None":
    """A flow run; None when this server does not know it, as it was another one's."""
    from prefect.exceptions import ObjectNotFound

    try:
        return client.read_flow_run(UUID(id))
    except (ObjectNotFound, ValueError):
        return None


def mark(client: "SyncPrefectClient", run: "FlowRun", says: str) -> bool:
    """A run that is dead, and its tasks, as Crashed, or as Cancelled when that was asked; False when it had come to an end by itself."""
    from prefect.client.schemas.responses import SetStateStatus
    from prefect.states import Cancelled, Crashed

    now = run_of(client, str(run.id))
    if now is None or now.state is None or now.state.is_final() or now.state.is_scheduled():
        return False
    state: Any = Cancelled(message=says) if now.state.is_cancelling() else Crashed(message=says)
    answer = client.set_flow_run_state(now.id, state)  # not by force: the server refuses what has ended meanwhile
    if answer.status != SetStateStatus.ACCEPT:
        return False
    for task in client.read_task_runs(flow_run_filter=_only(now.id), task_run_filter=_under_way()):
        client.set_task_run_state(task.id, Crashed(message=says), force=True)
    return True


def _only(id: UUID) -> Any:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    return FlowRunFilter(id=FlowRunFilterId(any_=[id]))


def _under_way() -> Any:
    from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterState, TaskRunFilterStateType
    from prefect.client.schemas.objects import StateType

    types = [StateType.RUNNING, StateType.PENDING]
    return TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=types)))


def stuck(client: "SyncPrefectClient", process: str, before: datetime) -> "list[FlowRun]":
    """Runs of the process's deployments that are Pending or Running since before a time."""
    from prefect.client.schemas.objects import StateType

    found = _runs(client, process, (), [StateType.PENDING, StateType.RUNNING])
    return [run for run in found if run.state and run.state.timestamp < before]


def crashed(client: "SyncPrefectClient", process: str, flows: Sequence[str], after: datetime) -> "list[FlowRun]":
    """Runs of the process's deployments of these flows that crashed since a time."""
    from prefect.client.schemas.objects import StateType

    found = _runs(client, process, flows, [StateType.CRASHED])
    return [run for run in found if run.state and run.state.timestamp > after]


def _runs(client: "SyncPrefectClient", process: str, flows: Sequence[str], types: list[Any]) -> "list[FlowRun]":
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterName,
        DeploymentFilterTags,
        FlowFilter,
        FlowFilterName,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.sorting import FlowRunSort

    names = DeploymentFilter(name=DeploymentFilterName(any_=[process, process + SERVED]), tags=DeploymentFilterTags(all_=[TAG]))
    return client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=list(flows))) if flows else None,
        deployment_filter=names,
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=types))),
        sort=FlowRunSort.START_TIME_DESC,
        limit=PAGE,
    )


def try_again(client: "SyncPrefectClient", run: "FlowRun") -> bool:
    """Schedule a crashed run again; False when it is crashed no longer."""
    from prefect.client.schemas.responses import SetStateStatus
    from prefect.states import AwaitingRetry

    now = run_of(client, str(run.id))
    if now is None or now.state is None or not now.state.is_crashed():
        return False
    state: Any = AwaitingRetry(message="crashed; tried again by the watchdog")
    return client.set_flow_run_state(now.id, state).status == SetStateStatus.ACCEPT
