"""Telling: what came of a run -> a notice to whom the declaration names; and, as a hook of every flow, that one failed or crashed."""

import logging
from collections.abc import Sequence
from typing import Any

from prefect import Flow
from prefect.client.schemas.objects import FlowRun, State
from prefect.runtime import flow_run as current
from prefect.utilities.urls import url_for

from infra.settings import settings
from infra.store import open_store
from tasks.approvals import Standing
from tasks.artifacts import Artifact
from tasks.backfill import Filled
from tasks.batches import COUNTS, counts_of
from tasks.declaration import load_process
from tasks.notices import Notice, tell
from tasks.process import Process
from tasks.publishing import Outcome
from tasks.runs import Run

logger = logging.getLogger(__name__)


def tell_outcome(outcome: Outcome, evaluation: Artifact, run: Run) -> None:
    """A training run ended: published, refused, or waiting for somebody's word."""
    name, links = run.process.name, [*_page(), open_store().address(evaluation.prefix + "report.html")]
    measures = {result.rule: result.measure for result in outcome.results if result.measure is not None}
    if outcome.became == "waiting":
        roles = " or ".join(run.process.gate.approval.by) if run.process.gate.approval else ""
        says = f"a new model holds every rule and waits for approval by {roles}: request {outcome.request}"
        tell(
            run.process,
            Notice("approval", name, says, run.id, measures, links, f"clerkflow approve {name} {outcome.request} --as … --reason …"),
        )
    elif outcome.became == "tried":
        return  # nothing happened to the process
    elif outcome.became == "published":
        tell(run.process, Notice("success", name, "the model passed its gate and is champion", run.id, measures, links))
    else:
        broken = [result.rule for result in outcome.results if not result.passed]
        says = f"does not hold: {'; '.join(broken)}" if broken else f"request {outcome.request} was rejected already; the champion stays"
        tell(run.process, Notice("refusal", name, says, run.id, measures, links))


def tell_decision(found: Standing, process: Process) -> None:
    """Somebody decided on a request; the reason stays in the store, for people write what they like into it."""
    if found.decision and found.request:
        says = f"request {found.id} was {found.decision.decision} by {found.decision.name} ({found.decision.role})"
        tell(process, Notice("approval", process.name, says, found.request.run, {}, _page(), f"clerkflow models {process.name}"))


def tell_batches(batches: Sequence[Artifact], run: Run) -> None:
    """Batches were scored; nothing is said when nothing waited."""
    if batches:
        says = f"{len(batches)} batches were scored"
        tell(run.process, Notice("success", run.process.name, says, run.id, counts_of(batches), _page()))


def tell_drift(drift: Artifact, run: Run) -> None:
    """Recent records differ from what the champion was tested on, or more of its accepted answers are wrong than was certified."""
    if drift.facts["drifted"]:
        counts = {name: drift.facts[name] for name in ("share", "reference_rows", "current_rows")}
        columns = f"drifted: {', '.join(drift.facts['columns_drifted'])}"
        says = drift.facts["why"] if drift.facts["refuted"] else columns
        links = [*_page(), open_store().address(drift.prefix + "evidently.html")]
        tell(run.process, Notice("drift", run.process.name, says, run.id, counts, links, f"clerkflow train {run.process.name}"))


def tell_backfill(filled: Sequence[Filled], run: Run) -> None:
    """Past days are done; nothing is said when there was nothing to do."""
    if filled:
        counts = {name: sum(int(getattr(day, name)) for day in filled) for name in (*COUNTS, "files", "reused")}
        says = f"{len(filled)} days from {filled[0].day} to {filled[-1].day} are done"
        tell(run.process, Notice("success", run.process.name, says, run.id, counts, _page()))


def tell_deaths(marked: Sequence[str], given_up: Sequence[str], process: Process) -> None:
    """Runs died without a word, or crashed once too often; a run that the worker saw crash has told so itself."""
    if marked or given_up:
        says = [f"{name} died without a word" for name in marked] + [
            f"{name} is not tried again, it crashed each time" for name in given_up
        ]
        tell(process, Notice("failure", process.name, "; ".join(says), links=_page()))


def tell_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Hook of every flow, for on_failure and on_crashed; says which flow failed, and not the error's text, which may quote a row."""
    try:
        process = load_process(str(flow_run.parameters.get("process", "")), settings().processes)
    except ValueError as error:
        logger.warning("notices: nobody can be told that %s failed: %s", flow.name, error)
        return
    word = "crashed" if state.is_crashed() else "failed"
    says = f"{flow.name} {word}: {flow_run.name}"
    tell(process, Notice("failure", process.name, says, links=_page(str(flow_run.id))))


def _page(flow_run_id: str | None = None) -> list[str]:
    """The flow run's page in the Prefect UI, when there is one."""
    found = flow_run_id or current.id
    page = url_for("flow-run", found) if found else None
    return [page] if page else []
