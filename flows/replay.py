"""Replay: the dead letters of a batch and the champion -> a batch of their own, after the data or the model was mended."""

from prefect import flow

from flows import pages, telling, turns
from flows.opening import open_run, run_name
from flows.parameters import Overrides
from tasks import runs
from tasks.arrivals import replay_letters
from tasks.artifacts import Artifact
from tasks.reasons import Reason


@flow(name="replay", flow_run_name=run_name, on_failure=[telling.tell_failure], on_crashed=[telling.tell_failure])
@turns.once
def replay(process: str, batch: str, reason: Reason | None = None, overrides: Overrides | None = None) -> list[Artifact] | turns.Skipped:
    """Ask again about what a batch could not do.

    Args:
        process: Name of a declared process, a folder of data/processes.
        batch: Its name, as its folder and `clerkflow score` say it.
        reason: Only the dead letters of this code; all when absent.
        overrides: Parts of the declaration that differ for this run only.
    """
    run = open_run(process, "replay", overrides)
    scored = replay_letters(batch, run, reason)
    pages.show_batches(scored.batches, run)
    runs.finish(run, f"{len(scored.batches)} batches", scored.batches)
    telling.tell_batches(scored.batches, run)
    return turns.skipped(run.process.name, scored.left[0]) if scored.left else scored.batches
