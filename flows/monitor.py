"""Monitor: the champion's reference and recent batches -> a drift report, and a training run when it drifts."""

from prefect import flow

from flows import pages, telling, turns
from flows.opening import open_run, run_name
from flows.parameters import Overrides
from flows.train import train
from tasks import runs
from tasks.artifacts import Artifact
from tasks.drift import measure_drift


@flow(name="monitor", flow_run_name=run_name, on_failure=[telling.tell_failure], on_crashed=[telling.tell_failure])
@turns.alone
def monitor(process: str, retrain: bool = True, overrides: Overrides | None = None) -> Artifact:
    """Compare recent records and predictions with those the champion was tested on.

    Args:
        process: Name of a declared process, a folder of data/processes.
        retrain: Start a training run when they have drifted, unless the declaration says drift.train: false.
        overrides: Parts of the declaration that differ for this run only.
    """
    run = open_run(process, "monitor", overrides)
    drift = measure_drift(run)
    pages.show_drift(drift, run)
    runs.finish(run, "drifted" if drift.facts["drifted"] else "stable", [drift])
    telling.tell_drift(drift, run)
    if drift.facts["drifted"] and retrain and run.process.drift.train:
        train(process, overrides)
    return drift
