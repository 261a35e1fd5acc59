"""Pretrain: raw records of several processes, with an output or without -> validated -> their texts, but none that measures -> a base."""

from prefect import flow

from flows.opening import open_run, run_name
from infra.settings import settings
from tasks import runs
from tasks.aliases import Alias
from tasks.domains import load_domain
from tasks.ingestion import ingest
from tasks.pretraining import pretrain_base
from tasks.validation import validate


@flow(name="pretrain", flow_run_name=run_name)
def pretrain(base: str) -> Alias:
    """Make a base model on the texts of the processes that it names, for them to be tuned from.

    Args:
        base: Name of a declared base, a file of data/bases.
    """
    folder = settings().bases
    domain = load_domain(base, folder)
    opened = [open_run(name, "pretrain", None) for name in domain.processes]
    labelled = [validate(ingest(run, "labelled"), run, "labelled") for run in opened]
    unlabelled = [validate(ingest(run, "unlabelled"), run, "unlabelled") for run in opened]
    alias = pretrain_base(domain, labelled, unlabelled, opened, folder)
    for run, *artifacts in zip(opened, labelled, unlabelled, strict=True):
        runs.finish(run, f"{domain.name} {alias.version}", artifacts)
    return alias
