"""Score: the champion and new records -> predictions and dead letters."""

from typing import Any, Literal

from prefect import flow

from flows import pages, telling
from flows.opening import open_run, run_name
from tasks import runs
from tasks.artifacts import Artifact
from tasks.scoring import find_batches, score_batch


@flow(name="score", flow_run_name=run_name, on_failure=[telling.tell_failure], on_crashed=[telling.tell_failure])
def score(
    process: str,
    source: str | None = None,
    output_format: Literal["jsonl", "csv", "parquet"] = "jsonl",
    overrides: dict[str, Any] | None = None,
) -> list[Artifact]:
    """Give the champion new records and store its predictions.

    Args:
        process: Name of a declared process, a folder of data/processes.
        source: A file, or a key of the store; without it, every file of the inbox that waits to be scored.
        output_format: How predictions are written.
        overrides: Parts of the declaration that differ for this run only.
    """
    run = open_run(process, "score", overrides)
    sources = [source] if source else find_batches(run)
    states = [score_batch(source, run, output_format, return_state=True) for source in sources]
    batches = [state.result() for state in states if state.is_completed()]
    pages.show_batches(batches, run)
    runs.finish(run, f"{len(batches)} batches, {len(states) - len(batches)} failed", batches)
    telling.tell_batches(batches, run)
    return [state.result() for state in states]  # a file that could not be scored stops the run when the others are done
