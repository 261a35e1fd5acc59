"""Scoring: the champion and new records -> batches/<batch>/: predictions, what to review, dead letters; manifest.json last.

A batch that is done is found again; one that was killed starts anew and ends the same. Whoever reads batches goes by their manifests,
so that half a batch is never seen.
"""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from infra.cluster import check_installed
from infra.settings import settings
from infra.store import Store, open_store
from tasks.aliases import champion_of
from tasks.answering import Champion, Terms, score_file
from tasks.answers import ledger_of, opened_ledger
from tasks.artifacts import Artifact, json_bytes, scratch, shown, store_folder
from tasks.audit import audit_of
from tasks.batches import accepted_by, batch_id, recall
from tasks.claims import Claim, Held, Hold, batch_key, check, claimed
from tasks.contents import Contents, Seen, absent_in
from tasks.manifests import read_manifest
from tasks.process import Process, digest_of
from tasks.reasons import Reason
from tasks.registry import fetch_version
from tasks.replays import Again, letters_of
from tasks.results import ResultTable
from tasks.routing import Router
from tasks.runs import Run, told
from tasks.sinks import WRITERS
from tasks.sources import Source, opened, read_as_today, source_id, table_name
from tasks.tallies import Tally
from tasks.turns import Turn, latest_turn
from tasks.words import REVIEWED, Words
from tasks.workers import hired

logger = logging.getLogger(__name__)


def store_was_away(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Trying again helps when the store did not answer; a mistake stays a mistake."""
    return isinstance(state.result(raise_on_failure=False), OSError)


@dataclass(frozen=True, slots=True)
class Order:
    """A batch that is wanted."""

    run: Run
    source: Source
    version: str
    output_format: str
    again: Again | None = None  # the dead letters that it replays
    refuted: str = ""  # why the version's certificate is none any more
    after: str = ""  # the batch that it comes after, when the declared table's rows have changed back to what they were before that
    alone: Hold | None = None  # the right to move answers to the declared table's rows

    @property
    def batch(self) -> str:
        """Its name: an order that was carried out is found by it."""
        replayed = self.again.digest if self.again else self.after
        what = self.source.sha256, self.source.name, self.run.process, self.version, self.output_format
        return batch_id(*what, replayed, bool(self.refuted))

    @property
    def prefix(self) -> str:
        """Where its files are."""
        return f"{self.run.process.name}/batches/{self.batch}"

    @property
    def turn(self) -> Turn | None:
        """What the table of results shows when it is carried out; None when it does not follow a declared table."""
        sink = self.run.process.batch.sink
        if self.again or not (sink and _follows(self.run.process, self.source.name)):
            return None
        read = source_id(self.source.sha256, self.source.name, self.run.process)
        ends = sink.model_dump(mode="json") | accepted_by(self.run.process, bool(self.refuted))
        shown = f"{read}-{self.version}-{digest_of(ends)[:8]}"
        return Turn(self.run.process.name, self.source.name, shown, self.batch, self.after)


def _follows(process: Process, source: str) -> bool:
    """Whether the process has a table of results that shows what a source, the declared table, holds."""
    declared = process.batch
    return bool(declared.sink and declared.source and source == table_name(declared.source))


TRIED_AGAIN: dict[str, Any] = {"retries": 2, "retry_delay_seconds": [1, 10], "retry_condition_fn": store_was_away}


@task(task_run_name="score-{run.process.name}", cache_policy=NO_CACHE, **TRIED_AGAIN)
def score_batch(source: str, run: Run, output_format: str = "jsonl", version: str | None = None, wait: bool = False) -> Artifact | Claim:
    """The champion and a file, a key or the declared table -> batches/<batch>/; the claim of another run that is at work on the batch.

    Args:
        version: another published version than the champion.
        wait: for another run that is at work on it, until that is done.

    Raises:
        DatabaseAwayError: the ledger's database, or a table's, does not answer; nothing of what was answered is lost.
        ValueError: no champion, no such source or format, or a source that cannot be read or has none of the prompt's columns.
    """
    if output_format not in WRITERS:
        raise ValueError(f"output format {output_format!r} is not known; there are: {', '.join(WRITERS)}")
    store = open_store()
    version = version or _champion(store, run.process.name)
    order = partial(Order, run, version=version, output_format=output_format, refuted=_refuted(store, run.process, version))
    return _carry_out(store, run, source, wait, lambda found, alone: order(source=found, alone=alone))


@task(task_run_name="replay-{run.process.name}", cache_policy=NO_CACHE, **TRIED_AGAIN)
def replay_batch(batch: str, run: Run, reason: Reason | None = None, output_format: str = "jsonl") -> Artifact | Claim:
    """The champion and the dead letters of a batch -> a batch of their own, from their source as it is now.

    Raises:
        ValueError: no such batch, none of its letters is meant, or its source is not there any more; or as `score_batch`.
    """
    store = open_store()
    again = letters_of(store, run.process.name, batch, reason)
    version = _champion(store, run.process.name)
    order = partial(Order, run, version=version, output_format=output_format, again=again, refuted=_refuted(store, run.process, version))
    return _carry_out(store, run, again.location, False, lambda found, alone: order(source=found, alone=alone))


def _carry_out(store: Store, run: Run, source: str, wait: bool, order_of: Callable[[Source, Hold | None], Order]) -> Artifact | Claim:
    """The finished batch; it is made when nobody has made it."""
    try:
        with _alone(store, run, source, wait) as alone, opened(store, source, run.process) as found:
            order = _in_turn(store, order_of(found, alone))
            if known := _known(store, order.prefix):
                return known
            with claimed(store, batch_key(run.process.name, order.batch), run.id, wait=wait) as hold:
                return _known(store, order.prefix) or _make_batch(store, order, hold)
    except Held as held:
        logger.info("scoring: %s is left to run %s, which is at work on it", shown(source), held.claim.run)
        return held.claim


def _alone(store: Store, run: Run, source: str, wait: bool) -> AbstractContextManager[Hold | None]:
    """From the copy of the declared table's rows until their answers are moved one run works: else older ones are shown over newer ones."""
    if not _follows(run.process, source):
        return nullcontext()
    return claimed(store, batch_key(run.process.name, f"rows-{digest_of(source)[:16]}"), run.id, wait=wait)


def _in_turn(store: Store, order: Order) -> Order:
    """The order under the name of what it makes: one of its own when these rows were scored before, and are not what the table shows."""
    if not (turn := order.turn) or not (sink := order.run.process.batch.sink):
        return order
    with opened_ledger(*ledger_of(order.run.process)) as ledger:
        last = latest_turn(ledger.engine, turn.process, turn.source)
        if last and last.plain == turn.plain and not Contents(ledger.engine, sink).is_emptied(last.batch):
            return replace(order, after=last.after)
    if last and store.stat(f"{order.prefix}/manifest.json"):
        order = replace(order, after=last.batch)
    while store.stat(f"{order.prefix}/manifest.json"):  # before turns were noted, or before they were lost
        order = replace(order, after=order.batch)
    return order


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


def _refuted(store: Store, process: Process, version: str) -> str:
    """Why a version's certificate is none any more, by what people found among its accepted answers; "" when it is."""
    found = audit_of(store, process, version)
    return found.told if found and found.refuted else ""


def _make_batch(store: Store, order: Order, hold: Hold) -> Artifact:
    """Load the model, score the source, store its files, move rows into the table of results, and write the manifest last."""
    started, clock, declared = datetime.now(UTC), time.perf_counter(), order.run.process
    check_installed(declared.scoring.workers)
    damaged = store.stat(f"{order.prefix}/manifest.json")
    model = fetch_version(store, declared.name, order.version, settings().cache)
    root = read_manifest(store, declared.name, order.version).root
    with hired(declared, model, order.version) as predictor, scratch() as folder, opened_ledger(*ledger_of(declared)) as ledger:
        router = Router.of(model, predictor.process, order.version, declared, order.refuted)
        champion = Champion(predictor, order.version, root, router)
        process = read_as_today(predictor.process, declared, order.source)
        sink = declared.batch.sink
        results = ResultTable(ledger.engine, sink, process) if sink else None
        if results:
            results.begin(order.batch)
        words = Words(store, process, declared)
        terms = Terms(ledger, order.batch, order.output_format, declared.batch, results, order.again, words)
        tally = score_file(order.source, champion, process, terms, folder)
        check(store, hold)
        artifact = store_folder(store, folder, order.prefix, tally.rows)
        check(store, hold)
        if results:
            with claimed(store, batch_key(declared.name, REVIEWED), order.run.id, wait=True):  # else a word released now is lost
                check(store, order.alone)
                absent = absent_in(folder, words.known_by, process.records.key, replayed=order.again is not None)
                results.publish(order.batch, Seen(words.shown, absent, words.later()), order.turn)
        artifact = artifact.model_copy(update={"facts": _facts(order, tally, time.perf_counter() - clock)})
        check(store, hold)
        manifest = json_bytes(_manifest(order, tally, artifact, started))
        key, etag = f"{order.prefix}/manifest.json", damaged.etag if damaged else None
        store.write(key, manifest, if_absent=damaged is None, if_match=etag)
    logger.info("scoring: %s", told(artifact, artifact.facts["seconds"], False))
    return artifact


def _facts(order: Order, tally: Tally, seconds: float) -> dict[str, Any]:
    """Counts for people."""
    return {
        "batch": order.batch,
        "source": order.source.name,
        "version": order.version,
        "format": order.output_format,
        "rows": tally.rows,
        "done": tally.done,
        "reviewed": tally.reviewed,
        "audit": tally.audit,
        "review": tally.review,
        "dead": tally.dead,
        "asked": tally.asked,
        "repeated": tally.reasons[Reason.REPEATED],
        **tally.reading,
        "seconds": round(seconds, 1),
        "rows_per_second": round(tally.rows / seconds, 1),
    }


def _manifest(order: Order, tally: Tally, artifact: Artifact, started: datetime) -> dict[str, Any]:
    """What others go by."""
    return artifact.facts | {
        "process": order.run.process.name,
        "run": order.run.id,
        "location": order.source.location,
        "source_sha256": order.source.sha256,
        "replay_of": order.again.batch if order.again else None,
        "reasons": dict(tally.reasons.most_common()),
        "doubts": dict(tally.doubts.most_common()),
        "started": started.isoformat(),
        "finished": datetime.now(UTC).isoformat(),
        "artifact": artifact.model_dump(mode="json"),
    }
