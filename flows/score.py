"""Score: the champion and new records -> predictions and dead letters."""

from prefect import flow

from flows import pages, telling, turns
from flows.opening import check_own, open_run, run_name
from flows.parameters import Overrides
from tasks import runs
from tasks.arrivals import check_all_scored, find_batches, score_source, score_waiting
from tasks.artifacts import Artifact
from tasks.sinks import OutputFormat


@flow(name="score", flow_run_name=run_name, on_failure=[telling.tell_failure], on_crashed=[telling.tell_failure])
@turns.once
def score(
    process: str,
    source: str | None = None,
    output_format: OutputFormat = "jsonl",
    overrides: Overrides | None = None,
    arrived: str | None = None,
) -> list[Artifact] | turns.Skipped:
    """Give the champion new records and store its predictions.

    Args:
        process: Name of a declared process, a folder of data/processes.
        source: A key of the store, or sql:TABLE as declared; on the command line any file, else one of the process's folder. Without it,
            all that waits in the inbox, and the declared table.
        output_format: How predictions are written.
        overrides: Parts of the declaration that differ for this run only.
        arrived: The key whose arrival started this run; it is scored first, then all else that waits.
    """
    run = open_run(process, "score", overrides)
    check_own(run.process, [source] if source else [])
    scored = score_source(source, run, output_format) if source else score_waiting(find_batches(run, arrived), run, output_format)
    pages.show_batches(scored.batches, run)
    left = f", {len(scored.left)} left to other runs" if scored.left else ""
    runs.finish(run, f"{len(scored.batches)} batches, {len(scored.failed)} failed{left}", scored.batches)
    telling.tell_batches(scored.batches, run)
    check_all_scored(scored.failed)
    return turns.skipped(run.process.name, scored.left[0]) if scored.left and not scored.batches else scored.batches
