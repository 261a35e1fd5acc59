"""Tune: raw records -> validated -> samples -> settings of the training that leave a smaller loss, for a person to declare."""

from prefect import flow

from flows import pages, telling, turns
from flows.opening import open_run, run_name
from flows.parameters import Overrides
from tasks import runs
from tasks.artifacts import Artifact
from tasks.ingestion import ingest
from tasks.preparation import prepare
from tasks.search import search
from tasks.validation import validate


@flow(name="tune", flow_run_name=run_name, on_failure=[telling.tell_failure], on_crashed=[telling.tell_failure])
@turns.alone
def tune(process: str, overrides: Overrides | None = None, minutes: float | None = None, workers: int | None = None) -> Artifact:
    """Search for better settings of a process's training; nothing is published, and nothing of its declaration is changed.

    Args:
        process: Name of a declared process, a folder of data/processes.
        overrides: Parts of the declaration that differ for this run only, such as {"finetuning": {"budget_minutes": 2}}.
        minutes: How long is searched; a later run goes on with the same study. As declared when empty.
        workers: Processes that search at once and share the cores. As declared when empty.
    """
    run = open_run(process, "tune", overrides)
    raw = ingest(run)
    validated = validate(raw, run)
    samples = prepare(validated, run)
    found = search(samples, run, minutes, workers)
    pages.show_search(found, run)
    runs.finish(run, f"{found.facts['trials']} trials", [raw, validated, samples, found])
    return found
