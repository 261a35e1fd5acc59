"""Opening: a process's name and this run's overrides -> the Run that every stage is given."""

import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect.runtime import deployment, flow_run
from pydantic_core import to_jsonable_python

from flows import turns
from flows.parameters import Overrides, plain
from infra.settings import settings
from tasks import runs
from tasks.declaration import load_process
from tasks.process import Process


def open_run(process: str, flow: str, overrides: Overrides | Mapping[str, Any] | None, from_stage: runs.Stage | None = None) -> runs.Run:
    """Load the declaration, with the overrides laid over it, and write run.json; the run shows the claim that its turn holds.

    Raises:
        DeclarationError: no such process, or mistakes in its declaration or in the overrides.
        ValueError: see `check_own`.
    """
    given = plain(overrides)
    declared, asked = load_process(process, settings().processes, given), {"flow_run": flow_run.id, "parameters": _asked()}
    if "records" in given:
        records = declared.records
        check_own(declared, [str(declared.folder / name) for name in (*records.sources, records.validation, records.test) if name])
    return runs.begin(declared, flow, given, claim=turns.now(), from_stage=from_stage, asked=asked)


def _asked() -> dict[str, Any]:
    """The flow run's parameters as plain data."""
    plain_data: dict[str, Any] = to_jsonable_python(dict(flow_run.parameters), exclude_none=True)
    return plain_data


def check_own(process: Process, paths: Iterable[str]) -> None:
    """That a run which a deployment started was told of no file of this machine but those in the process's own folder.

    Who may start runs would else read any file: a row that cannot be read is kept as it came. On the command line it is one's own machine.

    Raises:
        ValueError: it was.
    """
    home = process.folder.resolve()
    for path in paths if deployment.id else ():
        if os.path.isfile(path) and not Path(path).resolve().is_relative_to(home):  # noqa: PTH113 - Path.is_file raises for a long name
            raise ValueError(f"{process.name}: runs of a deployment read keys of the store and files of {home.name}/, and no other file")


def run_name() -> str:
    """Name of a flow run for people: train-ticket_routing-1123T2230, pretrain-base-office-1123T2230."""
    asked = flow_run.parameters
    name = str(asked.get("process") or asked.get("base") or "").rstrip("/").rpartition("/")[2]
    return f"{flow_run.flow_name}-{name}-{datetime.now(UTC):%m%dT%H%M}"
