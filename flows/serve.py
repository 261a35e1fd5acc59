"""Serve: declared processes -> one Prefect deployment for each flow and process, on its declared schedule."""

from typing import Any

import httpx
from prefect import serve
from prefect.client.orchestration import get_client
from prefect.deployments.runner import RunnerDeployment
from prefect.settings import PREFECT_API_URL
from prefect.types.entrypoint import EntrypointType

from flows.backfill import backfill
from flows.decide import decide
from flows.monitor import monitor
from flows.score import score
from flows.train import train
from tasks.process import Process

FLOWS: dict[str, Any] = {"train": train, "score": score, "monitor": monitor, "backfill": backfill, "decide": decide}


def deployments_of(process: Process) -> list[RunnerDeployment]:
    """One deployment a flow, named after the process; those without a schedule run from the UI or on demand."""
    return [
        flow.to_deployment(
            name=process.name,
            cron=getattr(process.schedules, name, None),
            parameters={"process": process.name},
            tags=["clerkflow", process.name, f"owner:{process.owner}"],
            description=f"{name} {process.name}. {process.description}".strip(),
            version=str(process.version),
            concurrency_limit=1,
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        for name, flow in FLOWS.items()
    ]


def serve_all(processes: list[Process]) -> None:
    """Make the deployments and run what they ask for, until stopped.

    Raises:
        ValueError: no Prefect server answers; the message says how to start one.
    """
    _server_answers()
    serve(*[deployment for process in processes for deployment in deployments_of(process)])


def _server_answers() -> None:
    """Schedules need a server that outlives this process; an ephemeral one would forget them."""
    address = PREFECT_API_URL.value()
    remedy = "start one with '.venv/bin/prefect server start' and set PREFECT_API_URL=http://127.0.0.1:4200/api"
    if not address:
        raise ValueError(f"PREFECT_API_URL is not set: {remedy}")
    try:
        with get_client(sync_client=True) as client:
            client.read_flows(limit=1)
    except httpx.HTTPError as error:
        raise ValueError(f"no Prefect server answers at {address} ({type(error).__name__}): {remedy}") from None
