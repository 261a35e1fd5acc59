"""Publishing: model/ and evaluation/ -> shards and files, a manifest after them, a rehearsal of both, the champion alias last."""

import json
import logging
import math
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from infra.spans import Spans, digest_of
from infra.store import MissingObject, Store, open_store
from tasks import claims, runs
from tasks.aliases import Alias, challenge, champion_of, move_alias
from tasks.approvals import Standing, ask, request_for
from tasks.artifacts import Artifact, fetch_file, fetch_folder, json_bytes, listing_of, read_json, scratch
from tasks.audit import audit_of
from tasks.automation import FILES as AUTOMATION
from tasks.certificate import FILE as CERTIFICATE
from tasks.decisions import complete_decided
from tasks.gate import Verdict
from tasks.manifests import Evidence, read_manifest
from tasks.registry import check_whole, publish_version, versions_of
from tasks.rehearsal import rehearse
from tasks.runs import STAGES, Run
from tasks.shards import INDEX, shards_of

logger = logging.getLogger(__name__)

EVIDENCE = ("metrics.json", "reference.jsonl", *AUTOMATION)  # files of the evaluation that belong to a version; the last ones may lack
UNSAFE = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".py")  # loading these may run code


def champion_to_meet(model: Artifact, run: Run) -> str | None:
    """The version that a model has to be judged against: the champion, or, when the model is champion already, the one before it.

    What was approved and not released yet, because somebody was killed in between, is released first.
    So a run that was killed after the alias moved, or is started again without a change, ends as it did the first time.
    """
    complete_decided(open_store(), run.process.name)
    alias = champion_of(open_store(), run.process.name)
    if alias and _is_champion(model, alias, run):
        return alias.previous
    return alias.version if alias else None


def _is_champion(model: Artifact, alias: Alias, run: Run) -> bool:
    """Whether the champion was made from this very model, perhaps under another declaration."""
    return read_manifest(open_store(), run.process.name, alias.version).made_from.sha256 == model.sha256


def lay_out(model: Path, evaluation: Path, verdict: Verdict, run: Run) -> dict[str, Spans]:
    """The files of a version: the model in shards, and what proves that it is good. Nothing is copied.

    Raises:
        ValueError: the model has a file that could run code, or a folder.
    """
    others = [path for path in sorted(model.iterdir()) if path.suffix != ".safetensors" and path.name != INDEX]
    wrong = [path.name for path in others if path.suffix in UNSAFE or not path.is_file()]
    if wrong:
        raise ValueError(f"{run.process.name}: {', '.join(wrong)} cannot be published; a model is safetensors, JSON and text in one folder")
    files = {path.name: Spans.of(path) for path in others}
    kept = [name for name in EVIDENCE if (evaluation / name).is_file()]
    files |= {name: Spans.of(evaluation / name) for name in kept}
    files |= {"declaration.json": _declaration(run), "verdict.json": Spans((json_bytes(verdict.model_dump(mode="json")),))}
    return files | shards_of(model, run.process.publishing.shard_bytes)


def _declaration(run: Run) -> Spans:
    return Spans((json_bytes(run.process.model_dump(mode="json")),))


def main_metrics(metrics: dict[str, Any]) -> dict[str, float]:
    """The model's measures over all samples; those of single labels and fields have a dot in their name."""
    measured = {name: float(value) for name, value in metrics["model"].items() if isinstance(value, int | float)}
    return {name: value for name, value in measured.items() if "." not in name and math.isfinite(value)}


def data_of(store: Store, run: Run) -> dict[str, Evidence]:
    """Stage -> the artifact that it made, or found, for this run."""
    found: dict[str, Evidence] = {}
    for stage in STAGES:
        try:
            artifact = json.loads(store.read(f"{run.prefix}/stages/{stage}.json")[0])["artifact"]
        except (MissingObject, KeyError):  # not reached, or failed
            continue
        found[stage] = Evidence(key=artifact["key"], sha256=artifact["sha256"])
    return found


def begun(run: Run) -> str:
    """When a run was begun, as its id says: 20240131T080000-… -> 2024-01-31T08:00:00Z."""
    day, time = run.id[:8], run.id[9:15]
    return f"{day[:4]}-{day[4:6]}-{day[6:]}T{time[:2]}:{time[2:4]}:{time[4:]}Z"


class Outcome(Verdict):
    """A verdict, and what became of the model."""

    became: Literal["published", "refused", "waiting", "rejected", "tried"]
    request: str | None = None  # what has to be approved, or was rejected


def outcome_of(verdict: Verdict, release: Alias | Standing | None, dry_run: bool = False) -> Outcome:
    """What became of a judged model.

    Args:
        release: what publishing it gave; None when it was refused, or only tried.
    """
    if release is None:
        return Outcome(**dict(verdict), became="tried" if dry_run and verdict.passed else "refused")
    if isinstance(release, Alias):
        return Outcome(**dict(verdict), became="published")
    return Outcome(**dict(verdict), became="rejected" if release.state == "rejected" else "waiting", request=release.id)


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
def publish(model: Artifact, evaluation: Artifact, verdict: Verdict, run: Run) -> Alias | Standing:
    """model/ and evaluation/ -> models/; the same model again changes nothing. With gate.approval, a request and no new champion.

    Raises:
        RuntimeError: the gate refused the model.
        RehearsalError: what was published does not answer as the evaluated model did.
        Conflict: another version became champion since this one was judged.
    """
    name = run.process.name
    if verdict.passed is not True:
        raise RuntimeError(f"{name}: the gate refused this model, so it is not published; the champion stays")
    store = open_store()
    before = champion_of(store, name)
    version = version_of_model(store, model, evaluation, verdict, run)
    if before and before.version == version:
        logger.info("publishing: version %s is champion already", version)
        return before
    claims.check(store, run.claim)
    challenge(store, name, version, run.id)
    if run.process.gate.approval and (known := _asked_already(store, name, version)):
        return known
    asked = _rehearse(store, evaluation, name, version)
    instead_of = (
        before.version if before and _is_champion(model, before, run) else read_json(store, evaluation, "metrics.json")["champion_version"]
    )
    if run.process.gate.approval:
        manifest = read_manifest(store, name, version)
        return ask(store, manifest, verdict, run.id, run.process.gate.approval, instead_of)
    reason = f"passed its gate; downloaded again, it gave the same {asked} answers"
    token = run.claim.token if run.claim else None
    alias = move_alias(store, name, version, reason, run.id, instead_of=instead_of, token=token)
    logger.info("publishing: version %s is champion now", alias.version)
    return alias


def _asked_already(store: Store, name: str, version: str) -> Alias | Standing | None:
    """The request for a version that still counts; the champion, when it was approved and not released yet."""
    known = request_for(store, name, version)
    if known and known.state == "approved":
        complete_decided(store, name)
        return champion_of(store, name)
    return known


def version_of_model(store: Store, model: Artifact, evaluation: Artifact, verdict: Verdict, run: Run) -> str:
    """The version of a judged model: published now, unless it is there already; the same model with a new certificate, where the
    one of the version that is there was refuted, is a new version.
    """
    known = known_version(store, model, run)
    if known and not _certified_anew(store, known, evaluation, run):
        return known
    return _publish_now(store, model, evaluation, verdict, run)


def _certified_anew(store: Store, version: str, evaluation: Artifact, run: Run) -> bool:
    """Whether people have refuted a version's certificate, and the evaluation has another one."""
    audit, now = audit_of(store, run.process, version), listing_of(store, evaluation).get(CERTIFICATE)
    if not (audit and audit.refuted and now):
        return False
    before = read_manifest(store, run.process.name, version).files.get(CERTIFICATE)
    return before is None or before.digest != now["sha256"]


def known_version(store: Store, model: Artifact, run: Run) -> str | None:
    """The version that was made from this very model under this very declaration and is still whole; None when there is none."""
    declaration = digest_of(_declaration(run)).sha256
    for manifest in versions_of(store, run.process.name, skip_damaged=True):
        if manifest.made_from.sha256 == model.sha256 and manifest.files["declaration.json"].digest == declaration:
            with suppress(ValueError):
                check_whole(store, read_manifest(store, manifest.process, manifest.version), every_byte=True)
                return manifest.version
    return None


def _publish_now(store: Store, model: Artifact, evaluation: Artifact, verdict: Verdict, run: Run) -> str:
    """Fetch a model and what proves it, publish them as a version, and return its name."""
    with scratch() as folder:
        fetch_folder(store, model, folder / "model")
        there = listing_of(store, evaluation)
        for file in (name for name in EVIDENCE if name in there):
            fetch_file(store, evaluation, file, folder / "evaluation")
        manifest = publish_version(
            store,
            run.process.name,
            lay_out(folder / "model", folder / "evaluation", verdict, run),
            run.process.publishing.shard_bytes,
            created=begun(run),
            run=run.id,
            commit=runs.commit(),
            versions=runs.versions(),
            metrics=main_metrics(read_json(store, evaluation, "metrics.json")),
            data=data_of(store, run),
            verdict=verdict.model_dump(mode="json"),
        )
    return manifest.version


def _rehearse(store: Store, evaluation: Artifact, name: str, version: str) -> int:
    with scratch() as folder:
        return rehearse(name, version, fetch_file(store, evaluation, "proof.jsonl", folder))
