"""Backfill: past days of the inbox -> scored or monitored, each day with the model that was champion on it."""

from collections.abc import Sequence
from datetime import date
from typing import Any, Literal

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows import pages, telling, turns
from flows.opening import open_run, run_name
from infra.store import open_store
from tasks import runs
from tasks.backfill import Day, Filled, fill_day, plan_days
from tasks.sinks import OutputFormat


@flow(name="backfill", flow_run_name=run_name, on_failure=[telling.tell_failure], on_crashed=[telling.tell_failure])
@turns.once
def backfill(
    process: str,
    first_day: date,
    last_day: date,
    work: Literal["score", "monitor"] = "score",
    parallel: int = Field(2, ge=1, le=16),
    output_format: OutputFormat = "jsonl",
    overrides: dict[str, Any] | None = None,
) -> list[Filled]:
    """Do past days again, or for the first time, each with the model that was champion when the day ended (UTC).

    What is done already is found and not done again, so a backfill that was stopped is simply started again.

    Args:
        process: Name of a declared process, a folder of data/processes.
        first_day: The first day, in UTC.
        last_day: The last day, in UTC; it belongs to the span.
        work: Score the files of each day, or score them and compare them with what their model was tested on.
        parallel: So many days at a time, each with a model in memory.
        output_format: How predictions are written.
        overrides: Parts of the declaration that differ for this run only.
    """
    run = open_run(process, "backfill", overrides)
    days = plan_days(open_store(), run.process, first_day, last_day)
    filled, failed = fill_days(days, run, work, parallel, output_format)
    pages.show_backfill(filled, failed, run)
    runs.finish(run, f"{len(filled)} of {len(days)} days", [])
    if failed:
        raise ValueError(f"{process}: {len(failed)} of {len(days)} days failed ({', '.join(failed)}): {next(iter(failed.values()))}")
    telling.tell_backfill(filled, run)
    return filled


def fill_days(
    days: Sequence[Day], run: runs.Run, work: Literal["score", "monitor"], parallel: int, output_format: str
) -> tuple[list[Filled], dict[str, Exception]]:
    """So many days at a time; a day that fails does not stop the others. Days in their order, and day -> error of those that failed."""
    with ThreadPoolTaskRunner[Any](max_workers=parallel) as runner:
        parameters = [{"day": day, "run": run, "flow": work, "output_format": output_format} for day in days]
        futures = [runner.submit(fill_day, each) for each in parameters]
        results = [future.result(raise_on_failure=False) for future in futures]
    failed = {str(day.date): result for day, result in zip(days, results, strict=True) if isinstance(result, Exception)}
    return [result for result in results if isinstance(result, Filled)], failed
