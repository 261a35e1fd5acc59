"""Arrivals: inbox/ against the ledger -> which files wait to be scored or learned from, and what became of each of them.

Events only make this fast: whoever asks what waits lists the inbox, so that doubled, reordered and lost events change nothing.
"""

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from infra.store import ObjectInfo, Store, open_store
from tasks import ledger, lessons
from tasks.aliases import champion_of
from tasks.artifacts import Artifact, read_json, shown
from tasks.batches import finished_batch
from tasks.claims import Claim
from tasks.ledger import Arrival, Kind, Ledger, enter, inbox_of, is_settled, move, read_ledger, reopen, settled_inbox, shortened
from tasks.process import Process, digest_of
from tasks.prompts import output_of
from tasks.readers import Reader, check_readable, is_labelled
from tasks.reasons import Reason
from tasks.records import Record
from tasks.released import release_reviewed, unreleased
from tasks.runs import Run
from tasks.scoring import replay_batch, score_batch
from tasks.sources import check_columns, opened, source_id, table_name
from tasks.tables import has_rows

logger = logging.getLogger(__name__)

MANY = 5  # files that a message names


@dataclass(slots=True)
class Survey:
    """What stands in the inbox of a process, and what the ledger says of it."""

    ledger: Ledger
    here: list[Arrival] = field(default_factory=list)  # the versions that stand in the inbox
    settling: list[str] = field(default_factory=list)  # keys that are still written to
    unknown: dict[str, str] = field(default_factory=dict)  # key -> why the ledger cannot know it

    @property
    def counts(self) -> dict[str, int]:
        """Versions ever seen by state, what is still written to, and what is unknown; the sum is every version."""
        states = Counter(arrival.state for arrival in self.ledger.arrivals.values())
        counts = {state: states[state] for state in ("processed", "quarantined", "dead-lettered", "pending")}
        return counts | {"settling": len(self.settling), "unknown": len(self.unknown) + len(self.ledger.damaged)}

    def pending(self, kind: Kind) -> list[Arrival]:
        """What waits to be scored (unlabelled) or learned from (labelled), the first come first."""
        waiting = [arrival for arrival in self.here if arrival.state == "pending" and arrival.kind == kind]
        return sorted(waiting, key=lambda arrival: (arrival.seen, arrival.key))

    def replace(self, arrival: Arrival) -> None:
        """Take in an entry as it is now."""
        self.ledger.arrivals[arrival.key, arrival.etag] = arrival
        self.here = [arrival if (other.key, other.etag) == (arrival.key, arrival.etag) else other for other in self.here]


def survey(store: Store, process: Process, before: Ledger | None = None) -> Survey:
    """List the inbox, and enter into the ledger what is new.

    Args:
        before: the ledger as read earlier, so that only what changed is read again.
    """
    found = Survey(read_ledger(store, process.name, before))
    for info in inbox_of(store, process.name):
        known = found.ledger.arrivals.get((info.key, info.etag))
        if known is None and not is_settled(store, info, process):
            found.settling.append(info.key)
            continue
        try:
            arrival = _up_to_date(store, process, info, known)
        except (OSError, ValueError) as error:
            found.unknown[info.key] = shortened(error)
            continue
        if arrival is None:
            found.settling.append(info.key)
            continue
        found.ledger.arrivals[arrival.key, arrival.etag] = arrival
        found.here.append(arrival)
    return found


def _up_to_date(store: Store, process: Process, info: ObjectInfo, known: Arrival | None) -> Arrival | None:
    """The entry of a version that stands in the inbox; None when the object changed while it was looked at."""
    outdated = known and known.state in ("pending", "quarantined") and known.reading != _reading(process)
    if known and not known.gone and not outdated:
        return known
    judged = _judge(store, process, info)
    if judged is None:
        return None
    if judged.state == "quarantined":
        logger.warning("arrivals: %s is quarantined: %s", shown(info.key), judged.reason)
    return reopen(store, known, judged) if known else enter(store, judged)


def _reading(process: Process) -> str:
    """What decides whether a file is labelled and can be read."""
    return digest_of(process.part("records", "output") | {"prompt": process.sample.prompt})[:32]


def _judge(store: Store, process: Process, info: ObjectInfo) -> Arrival | None:
    """Read a version and say what it is: labelled, unlabelled, or nothing that can be used; None when it changed meanwhile."""
    at = datetime.now(UTC)
    arrival = Arrival(key=info.key, etag=info.etag, size=info.size, seen=at, changed=at, reading=_reading(process))
    update: dict[str, object]
    try:
        update = _look_at(store, process, info)
    except ValueError as error:
        update = {"state": "quarantined", "reason": str(error)[: ledger.REASON_CHARACTERS]}
    now = store.stat(info.key)
    return arrival.model_copy(update=update) if now and now.etag == info.etag else None


def _look_at(store: Store, process: Process, info: ObjectInfo) -> dict[str, object]:
    """Digest, kind, and number of labelled records of a file.

    Raises:
        ValueError: it cannot be read, or can be neither scored nor learned from.
    """
    with opened(store, info.key) as source:
        if not is_labelled(source.path, source.name, process):
            check_columns(source.path, source.name, process)
            check_readable(source.path, source.name, process)
            return {"sha256": source.sha256, "kind": "unlabelled"}
        if not process.records.inbox:
            raise ValueError("its records are labelled, and records.inbox is false: nothing is learned from the inbox")
        rows = (row for row in Reader(source.path, source.name, process, labelled=False) if isinstance(row, Record))
        records = sum(output_of(process, row.values) not in (None, {}) for row in rows)
        return {"sha256": source.sha256, "kind": "labelled", "records": records}


def due(store: Store, process: Process, found: Survey, reviewed: int = 0) -> dict[str, list[Arrival]]:
    """Flow -> the arrivals that it should be started for; unlabelled ones wait for a champion, labelled ones for enough company.

    Args:
        reviewed: records that people have labelled meanwhile; enough of them start a training alone.
    """
    unlabelled, labelled = found.pending("unlabelled"), found.pending("labelled")
    start = {}
    if unlabelled and champion_of(store, process.name):
        start["score"] = unlabelled
    if sum(arrival.records for arrival in labelled) + reviewed >= process.arrivals.min_new_records:
        start["train"] = labelled
    return start


# --- what a run takes


def find_batches(run: Run, arrived: str | None = None) -> list[Arrival]:
    """The inbox files that wait to be scored, the one whose arrival started the run first.

    Raises:
        ValueError: some wait, but there is no champion to score them with.
    """
    store, process = open_store(), run.process
    settled_inbox(store, process)  # waits for those that are still written to
    found = survey(store, process)
    settle_scored(store, process, found)
    waiting = bury_exhausted(store, process, found, "unlabelled")
    if waiting and champion_of(store, process.name) is None:
        raise ValueError(f"{process.name} has no champion to score with; train one: clerkflow train {process.name}")
    return sorted(waiting, key=lambda arrival: arrival.key != arrived)


@dataclass(slots=True)
class Scored:
    """What became of the files that a run took."""

    batches: list[Artifact] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # key -> why
    left: list[Claim] = field(default_factory=list)  # to other runs, which are at work on them

    def take(self, name: str, result: Artifact | Claim | BaseException) -> None:
        """Note what came of one source: its batch, another run's claim, or a mistake.

        Raises:
            OSError: the store or a database did not answer.
        """
        if isinstance(result, OSError):
            raise result
        if isinstance(result, Artifact):
            self.batches.append(result)
        elif isinstance(result, Claim):
            self.left.append(result)
        else:
            self.failed[name] = shortened(result)


def score_arrivals(arrivals: Iterable[Arrival], run: Run, output_format: str) -> Scored:
    """Score one file after the other, and keep in the ledger how each went; a file that fails does not keep the others from it.

    Raises:
        OSError: the store did not answer; the rest waits for the next run.
    """
    store, scored = open_store(), Scored()
    for arrival in arrivals:
        taken = move(store, arrival, lambda now: {"attempts": now.attempts + 1, "run": run.id})
        if taken.state != "pending":
            continue
        result = score_batch(arrival.key, run, output_format, return_state=True).result(raise_on_failure=False)
        scored.take(arrival.key, result)
        if isinstance(result, Artifact):
            _settle(store, run.process, taken, str(result.facts["batch"]))
        elif isinstance(result, Claim):
            move(store, taken, lambda now: {"attempts": max(0, now.attempts - 1)})  # it did not try
        else:
            reason = scored.failed[arrival.key]
            move(store, taken, lambda _, reason=reason: {"reason": reason})  # type: ignore[misc]
    return scored


def score_source(source: str, run: Run, output_format: str) -> Scored:
    """Score one file or key that somebody named."""
    found = score_batch(source, run, output_format)
    return Scored(left=[found]) if isinstance(found, Claim) else Scored([found])


def score_waiting(arrivals: Iterable[Arrival], run: Run, output_format: str) -> Scored:
    """Score the files that wait, then the rows of the declared table, where there are any, and release what people have reviewed.

    Raises:
        OSError: the store or a database did not answer; the rest waits for the next run.
    """
    scored, declared = score_arrivals(arrivals, run, output_format), run.process.batch.source
    if declared and has_rows(declared):
        name = table_name(declared)
        scored.take(name, score_batch(name, run, output_format, return_state=True).result(raise_on_failure=False))
    if any(unreleased(open_store(), run.process)):
        released = release_reviewed(run, output_format, return_state=True).result(raise_on_failure=False)
        if released is not None:  # another run was faster, or nothing is to be told
            scored.take("reviews", released)
    return scored


def replay_letters(batch: str, run: Run, reason: Reason | None) -> Scored:
    """Ask again about the dead letters of a batch."""
    found = replay_batch(batch, run, reason)
    return Scored(left=[found]) if isinstance(found, Claim) else Scored([found])


def settle_scored(store: Store, process: Process, found: Survey) -> None:
    """What a finished batch has scored is processed: its run was killed before it could say so, or somebody scored the key by hand."""
    for arrival in found.pending("unlabelled"):
        if batch := finished_batch(store, process, arrival.sha256, arrival.key):
            found.replace(move(store, arrival, lambda _, batch=batch: {"state": "processed", "batch": batch, "reason": ""}))  # type: ignore[misc]


def _settle(store: Store, process: Process, arrival: Arrival, batch: str) -> None:
    """Processed, when the batch is of this version; when the object was replaced just before it was read, it is of the next one."""
    if batch.startswith(f"{source_id(arrival.sha256, arrival.key, process)}-"):
        move(store, arrival, lambda _: {"state": "processed", "batch": batch, "reason": ""})


def check_all_scored(failed: dict[str, str]) -> None:
    """That no file and no table failed.

    Raises:
        ValueError: some did; the message says which, and why.
    """
    if failed:
        named = [f"{key}: {reason}" for key, reason in list(failed.items())[:MANY]]
        raise ValueError(f"{len(failed)} sources could not be scored and wait for another attempt: {'; '.join(named)}")


def begin_training(run: Run) -> None:
    """Count an attempt for every labelled file and review that waits; only runs that arrivals start are counted."""
    store, process = open_store(), run.process
    lessons.begin(store, process.name)
    settled_inbox(store, process)
    for arrival in bury_exhausted(store, process, survey(store, process), "labelled"):
        move(store, arrival, lambda now: {"attempts": now.attempts + 1, "run": run.id})


def learned_from(raw: Artifact, run: Run) -> None:
    """What a training that came to a verdict has read is processed, whatever the verdict."""
    store, report = open_store(), read_json(open_store(), raw, "report.json")
    lessons.learned(store, run.process.name, tuple(report.get("reviewed", ())))
    read = {(file["name"], file["sha256"]) for file in report["files"]}
    for arrival in read_ledger(store, run.process.name).arrivals.values():
        if arrival.state == "pending" and (arrival.key, arrival.sha256) in read:
            move(store, arrival, lambda _: {"state": "processed", "run": run.id, "reason": ""})


# --- what no run takes


def bury_exhausted(store: Store, process: Process, found: Survey, kind: Kind) -> list[Arrival]:
    """Make dead letters of what was tried too often, and give back what waits; for whoever knows that no run is at work on it."""
    left, most = [], process.arrivals.max_attempts
    for arrival in found.pending(kind):
        if arrival.attempts < most:
            left.append(arrival)
            continue
        reason = (
            f"{arrival.attempts} runs took it and none finished it, arrivals.max_attempts is {most}; last: {arrival.reason or 'killed'}"
        )
        _bury(store, found, arrival, reason)
    return left


def bury_gone(store: Store, found: Survey) -> None:
    """Make dead letters of pending versions that stand in the inbox no longer; should one come back, it is opened again."""
    here = {(arrival.key, arrival.etag) for arrival in found.here}
    for arrival in list(found.ledger.arrivals.values()):
        unseen = (arrival.key, arrival.etag) not in here and arrival.key not in found.settling and arrival.key not in found.unknown
        if arrival.state == "pending" and unseen:
            _bury(store, found, arrival, "replaced by another version, or removed, before it was taken", gone=True)


def _bury(store: Store, found: Survey, arrival: Arrival, reason: str, gone: bool = False) -> None:
    buried = move(store, arrival, lambda _: {"state": "dead-lettered", "reason": reason[: ledger.REASON_CHARACTERS], "gone": gone})
    found.replace(buried)
    if buried.state == "dead-lettered":
        logger.warning("arrivals: %s is a dead letter: %s", shown(buried.key), buried.reason)


def reconcile(store: Store, process: Process, working: Iterable[str] = ()) -> Survey:
    """List the inbox against the ledger, and settle what no run will settle.

    Args:
        working: flows of which a run is under way, so that what they took is theirs.
    """
    found, busy = survey(store, process), set(working)
    settle_scored(store, process, found)
    bury_gone(store, found)
    for flow, kind in (("score", "unlabelled"), ("train", "labelled")):
        if flow not in busy:
            bury_exhausted(store, process, found, kind)  # type: ignore[arg-type]
    return found
