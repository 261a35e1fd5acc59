"""Scoring: the champion and new records -> batches/<batch>/: predictions, what to review, dead letters; manifest.json last.

A batch that is done is found again; one that was killed starts anew and ends the same. Whoever reads batches goes by their manifests,
so that half a batch is never seen.
"""

import logging
import time
from datetime import UTC, datetime
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from infra.database import ledger_url
from infra.settings import settings
from infra.store import Store, open_store
from tasks.aliases import champion_of
from tasks.answering import Champion, score_file
from tasks.answers import opened_ledger
from tasks.artifacts import Artifact, json_bytes, scratch, shown, store_folder
from tasks.batches import batch_id, recall
from tasks.claims import Claim, Held, Hold, batch_key, check, claimed
from tasks.manifests import read_manifest
from tasks.registry import fetch_version
from tasks.routing import Router
from tasks.runs import Run, told
from tasks.sinks import WRITERS
from tasks.sources import Source, opened, read_as_today

logger = logging.getLogger(__name__)


def store_was_away(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Trying again helps when the store did not answer; a mistake stays a mistake."""
    return isinstance(state.result(raise_on_failure=False), OSError)


@task(
    task_run_name="score-{run.process.name}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=[1, 10],
    retry_condition_fn=store_was_away,
)
def score_batch(source: str, run: Run, output_format: str = "jsonl", version: str | None = None, wait: bool = False) -> Artifact | Claim:
    """The champion and a file or a key -> batches/<batch>/; the claim of another run, when that one is at work on the batch.

    Args:
        version: another published version than the champion.
        wait: for another run that is at work on it, until that is done.

    Raises:
        ValueError: no champion, no such source or format, or a source that cannot be read or has none of the prompt's columns.
    """
    if output_format not in WRITERS:
        raise ValueError(f"output format {output_format!r} is not known; there are: {', '.join(WRITERS)}")
    store, name = open_store(), run.process.name
    version = version or _champion(store, name)
    with opened(store, source) as found:
        batch = batch_id(found.sha256, found.name, run.process, version, output_format)
        prefix = f"{name}/batches/{batch}"
        if known := _known(store, prefix):
            return known
        try:
            with claimed(store, batch_key(name, batch), run.id, wait=wait) as hold:
                return _known(store, prefix) or _make_batch(store, prefix, found, run, version, output_format, hold)
        except Held as held:
            logger.info("scoring: %s is left to run %s, which is at work on it", shown(found.name), held.claim.run)
            return held.claim


def _known(store: Store, prefix: str) -> Artifact | None:
    """A finished batch, and a word on it."""
    known = recall(store, prefix)
    if known:
        logger.info("scoring: %s", told(known, 0.0, True))
    return known


def _champion(store: Store, name: str) -> str:
    champion = champion_of(store, name)
    if champion is None:
        raise ValueError(f"{name} has no champion to score with; train one: clerkflow train {name}")
    return champion.version


def _make_batch(store: Store, prefix: str, source: Source, run: Run, version: str, output_format: str, hold: Hold) -> Artifact:
    """Load the champion, score the file, store its files and then the manifest, which only replaces a damaged one."""
    from tasks.generation import Predictor

    started, clock = datetime.now(UTC), time.perf_counter()
    damaged = store.stat(f"{prefix}/manifest.json")
    model = fetch_version(store, run.process.name, version, settings().cache)
    predictor = Predictor.load(model)
    router = Router.of(model, predictor.process, version, run.process)
    champion = Champion(predictor, version, read_manifest(store, run.process.name, version).root, router)
    process = read_as_today(predictor.process, run.process)
    with scratch() as folder, opened_ledger(ledger_url(), "CLERKFLOW_LEDGER_URL") as ledger:
        tally = score_file(source, champion, process, ledger, output_format, folder)
        seconds = time.perf_counter() - clock
        facts = {
            "batch": prefix.rpartition("/")[2],
            "source": source.name,
            "version": version,
            "format": output_format,
            "rows": tally.rows,
            "done": tally.done,
            "review": tally.review,
            "dead": tally.dead,
            "asked": tally.asked,
            "seconds": round(seconds, 1),
            "rows_per_second": round(tally.rows / seconds, 1),
        }
        check(store, hold)
        artifact = store_folder(store, folder, prefix, tally.rows).model_copy(update={"facts": facts})
        manifest = facts | {
            "process": run.process.name,
            "run": run.id,
            "source_sha256": source.sha256,
            "reasons": dict(tally.reasons.most_common()),
            "doubts": dict(tally.doubts.most_common()),
            "started": started.isoformat(),
            "finished": datetime.now(UTC).isoformat(),
            "artifact": artifact.model_dump(mode="json"),
        }
        check(store, hold)
        key, etag = f"{prefix}/manifest.json", damaged.etag if damaged else None
        store.write(key, json_bytes(manifest), if_absent=damaged is None, if_match=etag)
    logger.info("scoring: %s", told(artifact, artifact.facts["seconds"], False))
    return artifact
