"""Released: what people have accepted or corrected -> a batch of its own: predictions, sheet, documents, rows of the table of results.

Each word is in one such batch: those that earlier ones hold are left out, and of two runs at once one works. A batch is named after its
words, so one that was killed is made again with the same bytes.
"""

import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.store import MissingObject, Store, open_store
from tasks.answers import Answers, ledger_of, opened_ledger
from tasks.artifacts import Artifact, json_bytes, read_json, scratch, store_folder, write_json
from tasks.batches import read_batch
from tasks.claims import Hold, batch_key, check, claimed
from tasks.deliveries import deliveries
from tasks.process import Process, digest_of
from tasks.records import Record
from tasks.results import ResultTable
from tasks.reviewing import Queue, answer_by
from tasks.reviews import Reviewed
from tasks.runs import Run, told
from tasks.scoring import TRIED_AGAIN
from tasks.sinks import WRITERS, Predicted
from tasks.words import REVIEWED

logger = logging.getLogger(__name__)

WORDS = "words.json"


@task(task_run_name="release-{run.process.name}", cache_policy=NO_CACHE, **TRIED_AGAIN)
def release_reviewed(run: Run, output_format: str = "jsonl") -> Artifact | None:
    """What was accepted or corrected since the last time -> batches/reviewed-<digest>/; None when nothing was.

    Raises:
        DatabaseAwayError: the database of the table of results does not answer.
    """
    store, process = open_store(), run.process
    with claimed(store, batch_key(process.name, REVIEWED), run.id, wait=True) as hold:  # a batch, too, that moves its rows
        words, rejected = unreleased(store, process)
        made = _make_batch(store, run, words, output_format, hold) if words else None
        _withdraw(store, process, rejected)
        return made


def unreleased(store: Store, process: Process) -> tuple[list[Reviewed], list[Reviewed]]:
    """Answers that no batch holds yet, and rejections whose records' rows were not taken out of the table of results, where there is one.

    Both in the order in which they were given; void words, and those said over, are none. Of several words on records with one id the last
    one counts for the row.
    """
    holding, done = Queue(store, process).holding(), _held(store, process.name)
    last = {word.record_id: word for word in holding}.values() if process.batch.sink else ()
    answers = [word for word in holding if word.output is not None and word.id not in done]
    return answers, [word for word in last if word.word == "rejected" and word.id not in done]


def _held(store: Store, process: str) -> set[str]:
    """Words that a finished batch holds, or held: released/<batch>.json remembers them when the batch is gone; and rejections done with."""
    noted = {info.key for info in store.list(f"{process}/released/")}
    for info in store.list(f"{process}/batches/{REVIEWED}-"):
        key = f"{process}/released/{info.key.split('/')[-2]}.json"
        if info.key.endswith("/manifest.json") and key not in noted:
            with suppress(MissingObject, ValueError):
                store.write(key, json_bytes(read_json(store, read_batch(store, info.key).artifact, WORDS)))
                noted.add(key)
    return {id for key in noted for id in json.loads(store.read(key)[0])}


def _withdraw(store: Store, process: Process, rejected: Sequence[Reviewed]) -> None:
    """Take the answers of people out of the table of results whose records they have rejected since; a model's answer stays."""
    if not rejected or not process.batch.sink:
        return
    with opened_ledger(*ledger_of(process)) as ledger:
        gone = ResultTable(ledger.engine, process.batch.sink, process).withdraw([word.record_id for word in rejected], REVIEWED)
    if gone:
        logger.warning("released: %d rows are taken out of the table of results: their records were rejected since", gone)
    ids = [word.id for word in rejected]
    store.write(f"{process.name}/released/rejected-{digest_of(ids)[:16]}.json", json_bytes(ids))


def _make_batch(store: Store, run: Run, words: Sequence[Reviewed], output_format: str, hold: Hold) -> Artifact:
    """Store the files, move rows into the table of results, and write the manifest last; of each record the last word counts."""
    process, started, ids = run.process, datetime.now(UTC), [word.id for word in words]
    words = list({word.record_id: word for word in words}.values())
    batch = f"{REVIEWED}-{digest_of(ids)[:16]}"
    prefix = f"{process.name}/batches/{batch}"
    with scratch() as folder, opened_ledger(*ledger_of(process)) as ledger:
        _write(folder, process, words, output_format)
        write_json(folder / WORDS, list(dict.fromkeys([word.id for word in words] + ids)))  # those of the lines first
        artifact = store_folder(store, folder, prefix, len(words))
        check(store, hold)
        if process.batch.sink:
            _publish(ledger, ResultTable(ledger.engine, process.batch.sink, process), batch, words)
    facts: dict[str, Any] = {"batch": batch, "source": "reviews", "version": REVIEWED, "format": output_format}
    facts |= {"rows": len(words), "done": len(words), "review": 0, "dead": 0}
    artifact = artifact.model_copy(update={"facts": facts})
    manifest = facts | {"process": process.name, "run": run.id, "started": started.isoformat(), "finished": datetime.now(UTC).isoformat()}
    check(store, hold)
    store.write(f"{prefix}/manifest.json", json_bytes(manifest | {"artifact": artifact.model_dump(mode="json")}))
    logger.info("released: %s", told(artifact, 0.0, False))
    return artifact


def _write(folder: Path, process: Process, words: Sequence[Reviewed], output_format: str) -> None:
    """Predictions, and what is declared of them."""
    rows = predicted(process, words)
    with (
        WRITERS[output_format](folder / f"predictions.{output_format}", process) as write,
        deliveries(folder, process, process.batch) as deliver,
    ):
        write(rows)
        records = [Record(word.record_id, word.inputs, "reviews", row.line) for word, row in zip(words, rows, strict=True)]
        deliver(list(zip(records, rows, strict=True)))


def predicted(process: Process, words: Sequence[Reviewed]) -> list[Predicted]:
    """Words as rows of predictions: a person is sure, and lines count the words."""
    rows = enumerate(words, start=1)
    return [Predicted(word.record_id, answer_by(process, word), 1.0, REVIEWED, line) for line, word in rows]


def _publish(ledger: Answers, results: ResultTable, batch: str, words: Sequence[Reviewed]) -> None:
    """The words as rows of the table of results."""
    results.begin(batch)
    with ledger.keep(results.process.name, {}) as (connection, _):
        left = results.stage(connection, batch, predicted(results.process, words))
    if left:
        logger.warning("released: %d of %d do not fit the table of results", len(left), len(words))
    results.publish(batch)
