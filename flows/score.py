"""Score: the champion and new records -> predictions and dead letters."""

from typing import Literal

from prefect import flow

from flows import pages, telling
from flows.opening import open_run, run_name
from flows.parameters import Overrides
from tasks import arrivals, runs
from tasks.artifacts import Artifact
from tasks.scoring import score_batch


@flow(name="score", flow_run_name=run_name, on_failure=[telling.tell_failure], on_crashed=[telling.tell_failure])
def score(
    process: str,
    source: str | None = None,
    output_format: Literal["jsonl", "csv", "parquet"] = "jsonl",
    overrides: Overrides | None = None,
    arrived: str | None = None,
) -> list[Artifact]:
    """Give the champion new records and store its predictions.

    Args:
        process: Name of a declared process, a folder of data/processes.
        source: A file, or a key of the store; without it, every file of the inbox that waits to be scored.
        output_format: How predictions are written.
        overrides: Parts of the declaration that differ for this run only.
        arrived: The key whose arrival started this run; it is scored first, then all else that waits.
    """
    run = open_run(process, "score", overrides)
    failed: dict[str, str] = {}
    if source:
        batches = [score_batch(source, run, output_format)]
    else:
        batches, failed = arrivals.score_arrivals(arrivals.find_batches(run, arrived), run, output_format)
    pages.show_batches(batches, run)
    runs.finish(run, f"{len(batches)} batches, {len(failed)} failed", batches)
    telling.tell_batches(batches, run)
    arrivals.check_all_scored(failed)
    return batches
