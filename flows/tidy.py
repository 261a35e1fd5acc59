"""Tidy: what runs have left behind -> what is still needed."""

from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows import pages
from flows.opening import run_name
from infra.results import sweep_results
from infra.settings import settings
from infra.store import open_store
from tasks import tidying
from tasks.declaration import load_process
from tasks.process import Process


@flow(name="tidy", flow_run_name=run_name)
def tidy(process: str, dry_run: bool = False) -> dict[str, dict[str, int]]:
    """Remove old runs, results, batches, ledger entries and versions, as the declaration's `keep` says.

    Args:
        process: Name of a declared process, a folder of data/processes.
        dry_run: Only say what would go.
    """
    declared = load_process(process, settings().processes)
    counts = remove_old(declared, dry_run)
    pages.show_tidied(counts, dry_run, declared)
    return counts


@task(task_run_name="remove-old-{process.name}", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=[1, 10])
def remove_old(process: Process, dry_run: bool) -> dict[str, Any]:
    """Kind -> objects and bytes that went, or would go."""
    counts = tidying.tidy(open_store(), process, dry_run).counts
    return counts | {"Prefect results": sweep_results(settings().prefect_days, dry_run)}
