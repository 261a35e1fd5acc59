"""Opening: a process's name and this run's overrides -> the Run that every stage is given."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from prefect.runtime import flow_run

from flows.parameters import Overrides, plain
from infra.settings import settings
from tasks import runs
from tasks.declaration import load_process


def open_run(process: str, flow: str, overrides: Overrides | Mapping[str, Any] | None) -> runs.Run:
    """Load the declaration, with the overrides laid over it, and write run.json.

    Raises:
        DeclarationError: no such process, or mistakes in its declaration or in the overrides.
    """
    given = plain(overrides)
    return runs.begin(load_process(process, settings().processes, given), flow, given)


def run_name() -> str:
    """Name of a flow run for people: train-ticket_routing-1123T2230."""
    name = str(flow_run.parameters.get("process", "")).rstrip("/").rpartition("/")[2]
    return f"{flow_run.flow_name}-{name}-{datetime.now(UTC):%m%dT%H%M}"
