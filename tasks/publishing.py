"""Publishing: model/ and evaluation/ -> shards and files, a manifest after them, the champion alias last."""

import json
import logging
import math
import shutil
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from infra.store import MissingObject, Store, open_store
from tasks import runs
from tasks.artifacts import Artifact, fetch_file, fetch_folder, read_json, scratch, write_json
from tasks.gate import Verdict
from tasks.registry import Alias, champion_of, move_alias, publish_version, read_manifest
from tasks.runs import Run
from tasks.shards import INDEX, cut

logger = logging.getLogger(__name__)

UNSAFE = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".py")  # loading these may run code


def champion_to_meet(model: Artifact, run: Run) -> str | None:
    """The version that a model has to be judged against: the champion, or, when the model is champion already, the one before it.

    So a run that was killed after the alias moved, or is started again without a change, ends as it did the first time.
    """
    alias = champion_of(open_store(), run.process.name)
    if alias and _is_champion(model, alias, run):
        return alias.previous
    return alias.version if alias else None


def _is_champion(model: Artifact, alias: Alias, run: Run) -> bool:
    """Whether the champion was made from this very model, perhaps under another declaration."""
    return read_manifest(open_store(), run.process.name, alias.version).data.get("finetuning") == model.sha256


def lay_out(model: Path, evaluation: Path, verdict: Verdict, run: Run, folder: Path) -> None:
    """Put the files of a version into an empty folder: the model in shards, and what proves that it is good.

    Raises:
        ValueError: the model has a file that could run code, a folder, or a tensor that fits no shard.
    """
    others = [path for path in sorted(model.iterdir()) if path.suffix != ".safetensors" and path.name != INDEX]
    wrong = [path.name for path in others if path.suffix in UNSAFE or not path.is_file()]
    if wrong:
        raise ValueError(f"{run.process.name}: {', '.join(wrong)} cannot be published; a model is safetensors, JSON and text in one folder")
    for path in others:
        shutil.copyfile(path, folder / path.name)
    cut(model, folder, run.process.publishing.shard_bytes)
    for name in ("metrics.json", "reference.jsonl"):
        shutil.copyfile(evaluation / name, folder / name)
    write_json(folder / "declaration.json", run.process.model_dump(mode="json"))
    write_json(folder / "verdict.json", verdict.model_dump(mode="json"))


def main_metrics(metrics: dict[str, Any]) -> dict[str, float]:
    """The model's measures over all samples; those of single labels and fields have a dot in their name."""
    measured = {name: float(value) for name, value in metrics["model"].items() if isinstance(value, int | float)}
    return {name: value for name, value in measured.items() if "." not in name and math.isfinite(value)}


def data_of(store: Store, run: Run) -> dict[str, str]:
    """Stage -> SHA-256 of the artifact that it made, or found, for this run."""
    digests = {}
    for stage in ("ingestion", "validation", "preparation", "finetuning", "evaluation"):
        try:
            digests[stage] = json.loads(store.read(f"{run.prefix}/stages/{stage}.json")[0])["artifact"]["sha256"]
        except MissingObject:
            continue
    return digests


def begun(run: Run) -> str:
    """When a run was begun, as its id says: 20240131T080000-… -> 2024-01-31T08:00:00Z."""
    day, time = run.id[:8], run.id[9:15]
    return f"{day[:4]}-{day[4:6]}-{day[6:]}T{time[:2]}:{time[2:4]}:{time[4:]}Z"


def _may_help(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Trying again helps when the store did not answer; a refusal or a lost race stays what it is."""
    return isinstance(state.result(raise_on_failure=False), OSError)


@task(
    task_run_name="publish-{run.process.name}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=[1, 10],
    retry_condition_fn=_may_help,
)
def publish(model: Artifact, evaluation: Artifact, verdict: Verdict, run: Run) -> Alias:
    """model/ and evaluation/ -> models/; the same model again changes nothing.

    Raises:
        RuntimeError: the gate refused the model.
        Conflict: another version became champion since this one was judged.
    """
    name = run.process.name
    if verdict.passed is not True:
        raise RuntimeError(f"{name}: the gate refused this model, so it is not published; the champion stays")
    store = open_store()
    metrics = read_json(store, evaluation, "metrics.json")
    with scratch() as folder:
        (folder / "version").mkdir()
        fetch_folder(store, model, folder / "model")
        for file in ("metrics.json", "reference.jsonl"):
            fetch_file(store, evaluation, file, folder / "evaluation")
        lay_out(folder / "model", folder / "evaluation", verdict, run, folder / "version")
        manifest = publish_version(
            store,
            name,
            folder / "version",
            created=begun(run),
            run=run.id,
            commit=runs.commit(),
            versions=runs.versions(),
            metrics=main_metrics(metrics),
            data=data_of(store, run),
            verdict=verdict.model_dump(mode="json"),
        )
    before = champion_of(store, name)
    known = before is not None and _is_champion(model, before, run)
    instead_of = before.version if before and known else metrics["champion_version"]
    alias = move_alias(store, name, manifest.version, "passed its gate", run.id, instead_of=instead_of)
    same = before is not None and before.version == alias.version
    logger.info("publishing: version %s is %s", alias.version, "champion already" if same else "champion now")
    return alias
