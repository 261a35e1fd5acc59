"""Released: what people have accepted or corrected -> a batch of its own: predictions, sheet, documents, rows of the table of results.

Each word is in one such batch: those that earlier ones hold are left out, and of two runs at once one works. A batch is named after its
words, so one that was killed is made again with the same bytes. A word that cannot stand in the table of results, for it was said of what
the record held before, or does not fit its columns, is a dead letter of the batch. So is the rejection of an answer that had been accepted
and was audited: whoever was given it learns of that there, and its row leaves the table of results. Where an audit found such an answer
right, it is in the predictions once more, as a person's, and makes no second line of a sheet and no second document.
"""

import json
import logging
from collections import Counter
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
from tasks.audit import differs
from tasks.batches import read_batch
from tasks.claims import Hold, batch_key, check, claimed
from tasks.deliveries import deliveries
from tasks.process import Process, digest_of
from tasks.reasons import Reason
from tasks.records import Record
from tasks.results import ResultTable
from tasks.reviewing import Queue, answer_by
from tasks.reviews import Reviewed
from tasks.runs import Run, told
from tasks.scoring import TRIED_AGAIN
from tasks.sinks import LETTERS, WRITERS, DeadLetter, Predicted, as_json, json_lines
from tasks.words import REVIEWED

logger = logging.getLogger(__name__)

WORDS = "words.json"
OUTDATED = Reason.OUTDATED, "said of what the record held before; the table of results shows what it holds now"
TAKEN_BACK = Reason.REJECTED, "its answer had been accepted, and a person has rejected the record since"

Left = dict[int, tuple[Reason, str]]  # line -> why its word is not released


@task(task_run_name="release-{run.process.name}", cache_policy=NO_CACHE, **TRIED_AGAIN)
def release_reviewed(run: Run, output_format: str = "jsonl") -> Artifact | None:
    """What people have said since the last time -> batches/reviewed-<digest>/; None when they only rejected what was never accepted.

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
    """Words that no batch holds yet, and rejections whose records' rows were not taken out of the table of results, where there is one.

    Both in the order in which they were given; void words, and those said over, are none. A batch holds rejections of audited answers.
    """
    holding, done = Queue(store, process).holding(), _held(store, process.name)
    left = [word for word in holding if word.id not in done]
    told = [word for word in left if word.output is not None or word.audited]
    return told, [word for word in left if word.output is None and not word.audited and process.batch.sink]


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
    """Take the rows of records that were never accepted and were rejected out of the table of results, and note that it was done."""
    if not rejected or not process.batch.sink:
        return
    with opened_ledger(*ledger_of(process)) as ledger:
        _take_out(store, ResultTable(ledger.engine, process.batch.sink, process), rejected)
    ids = [word.id for word in rejected]
    store.write(f"{process.name}/released/rejected-{digest_of(ids)[:16]}.json", json_bytes(ids))


def _take_out(store: Store, results: ResultTable, rejected: Sequence[Reviewed]) -> None:
    """Take the answers of people, and those that an audit looked at, out of the table whose records were rejected since; others stay.

    A rejection of what a record held before takes nothing out; where nobody knows, the last word on records with one id counts.
    """
    if not rejected:
        return
    last = {word.record_id: word.id for word in Queue(store, results.process).holding()}
    current = results.judge(rejected)
    meant = [word for word in rejected if current[word.id] or (current[word.id] is None and last[word.record_id] == word.id)]
    gone = results.withdraw([word.record_id for word in meant], {REVIEWED, *(word.model_version for word in meant if word.audited)})
    if gone:
        logger.warning("released: %d rows are taken out of the table of results: their records were rejected since", gone)


def _make_batch(store: Store, run: Run, words: Sequence[Reviewed], output_format: str, hold: Hold) -> Artifact:
    """Store the files, move rows into the table of results, and write the manifest last; of each record the last word counts."""
    process, started, ids = run.process, datetime.now(UTC), [word.id for word in words]
    batch = f"{REVIEWED}-{digest_of(ids)[:16]}"
    prefix = f"{process.name}/batches/{batch}"
    with scratch() as folder, opened_ledger(*ledger_of(process)) as ledger:
        results = ResultTable(ledger.engine, process.batch.sink, process) if process.batch.sink else None
        words, left = _settle(ledger, results, batch, words)
        _write(folder, process, words, left, output_format)
        write_json(folder / WORDS, list(dict.fromkeys([word.id for word in words] + ids)))  # those of the lines first
        artifact = store_folder(store, folder, prefix, len(words))
        check(store, hold)
        if results:
            results.publish(batch)
            _take_out(store, results, [word for word in words if word.output is None])
    artifact = artifact.model_copy(update={"facts": _facts(batch, output_format, len(words), left)})
    reasons = Counter(reason.value for reason, _ in left.values())
    told_of = {"process": process.name, "run": run.id, "reasons": dict(reasons.most_common())}
    times = {"started": started.isoformat(), "finished": datetime.now(UTC).isoformat()}
    check(store, hold)
    manifest = artifact.facts | told_of | times | {"artifact": artifact.model_dump(mode="json")}
    store.write(f"{prefix}/manifest.json", json_bytes(manifest))
    logger.info("released: %s", told(artifact, 0.0, False))
    return artifact


def _settle(ledger: Answers, results: ResultTable | None, batch: str, words: Sequence[Reviewed]) -> tuple[list[Reviewed], Left]:
    """A word for each line of the batch, of records with one id the last, and why some are not released; rows of the others are staged."""
    current = results.judge(words) if results else {}
    kept = _last([word for word in words if word.output is not None and current.get(word.id) is not False])
    others = [word for word in words if word.output is None or current.get(word.id) is False]
    left: Left = {}
    if results:
        results.begin(batch)
        with ledger.keep(results.process.name, {}) as (connection, _):
            left = results.stage(connection, batch, predicted(results.process, kept))
    why = [OUTDATED if current.get(word.id) is False else TAKEN_BACK for word in others]
    return kept + others, left | dict(enumerate(why, start=len(kept) + 1))


def _last(words: Sequence[Reviewed]) -> list[Reviewed]:
    return list({word.record_id: word for word in words}.values())


def _facts(batch: str, output_format: str, rows: int, left: Left) -> dict[str, Any]:
    """Counts for people."""
    outdated = sum(reason is Reason.OUTDATED for reason, _ in left.values())
    facts: dict[str, Any] = {"batch": batch, "source": "reviews", "version": REVIEWED, "format": output_format}
    return facts | {"rows": rows, "done": rows - len(left), "review": 0, "dead": len(left), "outdated": outdated}


def _write(folder: Path, process: Process, words: Sequence[Reviewed], left: Left, output_format: str) -> None:
    """Predictions, what is declared of them, and dead letters."""
    records = [Record(word.record_id, word.inputs, "reviews", line) for line, word in enumerate(words, start=1)]
    accepted = [(record, row) for record, row in zip(records, predicted(process, words), strict=True) if row.line not in left]
    confirmed = {line for line, word in enumerate(words, start=1) if word.audited and not differs(word)}  # was delivered before
    with (
        WRITERS[output_format](folder / f"predictions.{output_format}", process) as write,
        json_lines(folder / LETTERS) as bury,
        deliveries(folder, process, process.batch) as deliver,
    ):
        write([row for _, row in accepted])
        bury([_letter(record, *left[record.line]) for record in records if record.line in left])
        deliver([(record, row) for record, row in accepted if row.line not in confirmed])


def _letter(record: Record, reason: Reason, words: str) -> DeadLetter:
    """A dead letter of a word that is not released."""
    return DeadLetter(record.id, record.line, reason.stage, reason.value, words, 1, record.file, "", as_json(record.values))


def predicted(process: Process, words: Sequence[Reviewed]) -> list[Predicted]:
    """Words as rows of predictions: a person is sure, and lines count the words."""
    rows = enumerate(words, start=1)
    return [Predicted(word.record_id, answer_by(process, word), 1.0, REVIEWED, line) for line, word in rows]
