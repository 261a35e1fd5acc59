"""Pretrain: raw records of several processes -> validated -> their texts, but none that measures -> a published base model."""

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
    validated = [validate(ingest(run), run) for run in opened]
    alias = pretrain_base(domain, validated, opened, folder)
    for run, artifact in zip(opened, validated, strict=True):
        runs.finish(run, f"{domain.name} {alias.version}", [artifact])
    return alias
