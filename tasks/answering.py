"""Answering: records of a source + what models have answered + the model -> predictions, what to review, dead letters, a sample to monitor.

Chunk by chunk, so that memory stays flat. The model is asked only about what the ledger of answers does not know.
"""

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tasks.answers import Answers, key_of
from tasks.artifacts import modified_at, shown
from tasks.deliveries import Deliver, deliveries
from tasks.encodings import KEPT_BYTES
from tasks.faults import fault_in
from tasks.features import Reservoir, Row, monitoring_row
from tasks.predictions import Prediction
from tasks.process import Process
from tasks.readers import Reader
from tasks.reasons import Reason, reason_of
from tasks.records import Record, Rejected
from tasks.repairs import repair
from tasks.repeats import Repeats
from tasks.replays import Again
from tasks.results import ResultTable
from tasks.reviews import Reviewed
from tasks.routing import AUDIT_FILE, Proposed, Router
from tasks.routing import FILE as REVIEW
from tasks.sinks import LETTERS, ORIGINALS, WRITERS, DeadLetter, Keep, Predicted, Write, as_json, json_lines, originals
from tasks.sources import Source, check_columns
from tasks.tallies import Tally, check_budget
from tasks.terms import Batches
from tasks.words import FILE as WORDS
from tasks.words import REVIEWED, Spoken, Words, answer_of
from tasks.workers import Workers

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tasks.generation import Predictor

CHUNK_RECORDS = 1024
CHUNK_CHARACTERS = 4_000_000  # of prompts, and bytes of rows; so that long records do not pile up
MONITORING_ROWS = 5_000  # the most that drift ever looks at


@dataclass(frozen=True, slots=True)
class Champion:
    """Who is asked."""

    predictor: "Predictor | Workers"
    version: str
    root: str  # of the version's manifest
    router: Router


class Asked(NamedTuple):
    """A record that the model can be asked about."""

    record: Record
    prompt: str
    word: Reviewed | None  # of a person, who is not asked again
    item: str  # what it is known by to people who review; "" where nobody needs to know
    raw: bytes = b""  # the row as it came, its first MiB; should it become a dead letter


EVERYTHING = Batches(max_dead=1.0)
REJECTED = Reason.REJECTED, "a person has reviewed it before, and rejected it"


@dataclass(frozen=True, slots=True)
class Terms:
    """How a batch is made, beside its source and its model."""

    ledger: Answers
    batch: str
    output_format: str
    wanted: Batches = EVERYTHING  # what else is made of accepted answers, and from which share of dead letters on it is stopped
    results: ResultTable | None = None
    again: Again | None = None  # the dead letters that it replays; then nothing else of the source is asked about
    words: Words | None = None  # of people, on records that they have looked at


def score_file(source: Source, champion: Champion, process: Process, terms: Terms, folder: Path) -> Tally:
    """Stream a file through the model into predictions.<format>, review.jsonl, dead_letters.jsonl, monitoring.jsonl and what is declared.

    Where people look at some accepted answers, these are in audit.jsonl, too.

    Args:
        process: the model's own declaration, with today's word on how files are read.

    Raises:
        DatabaseAwayError: the ledger does not answer; what was answered until then is in it.
        ValueError: the file cannot be read, or has none of the prompt's columns; or more than max_dead of it are dead letters.
        RuntimeError: records in are not accepted + review + dead.
    """
    check_columns(source.path, source.name, process)
    reader = Reader(source.path, source.name, process, labelled=False)
    with (
        WRITERS[terms.output_format](folder / f"predictions.{terms.output_format}", process) as write_done,
        json_lines(folder / REVIEW) as write_review,
        json_lines(folder / AUDIT_FILE) if champion.router.audit else nullcontext(_nothing) as write_audit,
        json_lines(folder / LETTERS) as write_dead,
        originals(folder / ORIGINALS) as keep,
        json_lines(folder / WORDS) as write_words,
        deliveries(folder, process, terms.wanted) as deliver,
        Repeats() as repeats,
        _older_left_alone(),
        _progress(f"Scoring {process.name}") as show,
    ):
        writers = Writers(write_done, write_review, write_audit, write_dead, keep, write_words, deliver)
        job = Job(source, champion, process, terms, writers, repeats)
        for asking in ahead(job.ask(chunk) for chunk in chunks(job.asked(reader))):
            job.answer(asking)
            show(job.tally)
        job.bury_missing()
        job.check_budget(ended=True)
    with (folder / "monitoring.jsonl").open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(as_json(row) + "\n" for row in job.monitoring.rows)
    rows = len(terms.again.letters) if terms.again else reader.counts["records"] + reader.counts["rejected"]
    _check_whole(source, rows, job.tally)
    job.tally.reading = {name: reader.facts.get(name) for name in ("encoding", "encoding_known")}
    return job.tally


@contextmanager
def _older_left_alone() -> Iterator[None]:
    """The garbage collector looks only through what comes from now on, not through all libraries again and again."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _nothing(rows: Sequence[Proposed]) -> None:
    """Where no answers are drawn, there are none to write."""


@dataclass(frozen=True, slots=True)
class Asking:
    """A chunk that the model is asked about."""

    chunk: Sequence[Asked]
    keys: list[bytes]
    known: dict[bytes, Prediction]
    new: list[bytes]
    said: Callable[[], list[Prediction]]  # to the new ones; waits for workers, or asks the model here


@dataclass(frozen=True, slots=True)
class Settled:
    """Which records of a chunk are accepted, which are for a person, and by line why an accepted one cannot stand in the table."""

    accepted: list[Predicted]
    drawn: list[Proposed]  # of the accepted, for a person to look at afterwards
    doubtful: list[Proposed]
    left: dict[int, tuple[Reason, str]]


@dataclass(frozen=True, slots=True)
class Writers:
    """Where a batch's rows go."""

    done: Write
    review: Write
    audit: Write
    dead: Write
    keep: Keep
    words: Write
    deliver: Deliver


class Job:
    """A batch while it is made."""

    def __init__(self, source: Source, champion: Champion, process: Process, terms: Terms, write: Writers, repeats: Repeats) -> None:
        self.source, self.champion, self.process, self.terms, self.write = source, champion, process, terms, write
        self.tally, self.repeats = Tally(), repeats
        self.attempts: dict[int, int] = {}  # line -> of what is asked about again
        self.coming: set[bytes] = set()  # keys of answers that are waited for
        self.monitoring = Reservoir[Row](MONITORING_ROWS, source.sha256 + champion.version)

    def asked(self, reader: Reader) -> Iterator[Asked]:
        """Records that the model can be asked about; the others go to the dead letters on the way."""
        for row, meant, counts in self._picked(reader):
            self.tally.rows += meant
            raw = reader.raw[:KEPT_BYTES]
            if isinstance(row, Rejected):
                if meant:
                    self.bury(row.id, row.line, Reason.UNREADABLE, row.reason, row.content, raw)
                continue
            record = repair(self.process, row, None)
            item = self._item(record)
            word = self.terms.words.on(item) if self.terms.words else None
            fault = REJECTED if word and word.word == "rejected" else fault_in(self.process, record)
            fault = self._repeated(record, reader, counts, taken=not fault) or fault
            if meant and fault:
                self.bury_record(record, *fault, raw)
            elif meant:
                yield Asked(record, self.champion.predictor.prompt_of(record.values), word, item, raw)

    def _repeated(self, record: Record, reader: Reader, counts: bool, taken: bool) -> tuple[Reason, str] | None:
        """Why a record is not answered beside one that came before it; rows without an id may be two records all the same.

        Args:
            counts: whether this batch, or the one that it replays, is about the record.
            taken: whether it takes its id: one that the model cannot be asked about leaves it to the next.
        """
        if not (reader.has_id or self.terms.results):
            return None
        first = self.repeats.first(record.id, reader.raw if reader.has_id else b"", record.line, counts, taken)
        if first is None or (first.is_same and not first.counts):
            return None
        where = f"in line {first.line}, has its id"
        return (Reason.REPEATED, f"the same record, {where}") if first.is_same else (Reason.DOUBLED_ID, f"another record, {where}")

    def _item(self, record: Record) -> str:
        words = self.terms.words
        return words.known_by(record.id, record.values) if words and (words.spoken or self.terms.results) else ""

    def _picked(self, reader: Iterable[Record | Rejected]) -> Iterator[tuple[Record | Rejected, bool, bool]]:
        """All rows, which of them are meant, and which this batch, or the one that it replays, is about."""
        if self.terms.again is None:
            yield from ((row, True, True) for row in reader)
            return
        contents = partial(_content_of, self.process)
        for row, attempt, known in self.terms.again.picked(reader, self.source.sha256, contents):
            if attempt:
                self.attempts[row.line] = attempt
            yield row, bool(attempt), known

    def ask(self, chunk: Sequence[Asked]) -> Asking:
        """Find what was said to a chunk, and ask the model about the rest; workers begin with it at once."""
        predictor = self.champion.predictor
        keys = [self._key(each) for each in chunk]
        known = self.terms.ledger.known(list(dict.fromkeys(keys)))
        known |= {key: answer_of(each.word) for key, each in zip(keys, chunk, strict=True) if each.word}
        new = {key: each.prompt for key, each in zip(keys, chunk, strict=True) if key not in known and key not in self.coming}
        self.coming.update(new)
        prompts = list(new.values())
        said = predictor.ask(prompts) if isinstance(predictor, Workers) else partial(predictor.predict, prompts)
        return Asking(chunk, keys, known, list(new), said)

    def _key(self, asked: Asked) -> bytes:
        """What an answer is found by; a person's is found by its word."""
        if asked.word:
            return asked.word.id.encode()
        return key_of(self.champion.root, self.champion.predictor.decoding, asked.record.id, asked.prompt)

    def answer(self, asking: Asking) -> None:
        """Take what is said to a chunk, keep what is new, and write it all down."""
        similarities = self.champion.router.similarities([(each.record, each.prompt) for each in asking.chunk])
        said = dict(zip(asking.new, asking.said(), strict=True))
        came = [key for key in asking.keys if key not in asking.known and key not in said]  # with the chunk before
        known = asking.known | (self.terms.ledger.known(came) if came else {})
        self.tally.asked += len(said)
        with self.terms.ledger.keep(self.process.name, said) as (connection, counted):
            known |= counted
            answers = [known[key] for key in asking.keys]
            settled = self._settle(connection, asking, answers, similarities)
        self.coming.difference_update(said)
        self._write(asking, answers, settled)
        self.check_budget()

    def _settle(
        self, connection: "Connection", asking: Asking, answers: Sequence[Prediction], similarities: Sequence[float | None]
    ) -> Settled:
        """What is accepted, and what a person shall look at; accepted rows are put beside the table of results, where there is one."""
        doubtful, drawn = list[Proposed](), list[Proposed]()
        accepted, left = list[Predicted](), dict[int, tuple[Reason, str]]()
        for (record, _, word, *_), answer, similarity in zip(asking.chunk, answers, similarities, strict=True):
            doubt = None if word else self.champion.router.proposed(record, answer, similarity)
            if doubt:
                doubtful.append(doubt)
            elif answer.output is not None:
                version = REVIEWED if word else self.champion.version
                accepted.append(Predicted(record.id, answer.output, answer.confidence, version, record.line, answer.fields))
                if not word and (looked_at := self.champion.router.audited(record, answer, similarity)):
                    drawn.append(looked_at)
        if self.terms.results:
            items = {each.record.line: each.item for each in asking.chunk}
            left = self.terms.results.stage(connection, self.terms.batch, accepted, items)
        return Settled([row for row in accepted if row.line not in left], [row for row in drawn if row.line not in left], doubtful, left)

    def _write(self, asking: Asking, answers: Sequence[Prediction], settled: Settled) -> None:
        """Each record of a chunk to where it belongs."""
        records = {each.record.line: each.record for each in asking.chunk}
        words = {each.record.line: each.word for each in asking.chunk if each.word}
        for (record, prompt, word, _, raw), answer in zip(asking.chunk, answers, strict=True):
            if not word:
                self.monitoring.offer(self._monitored(record, prompt, answer))
            if answer.output is None:
                self.bury_record(record, reason_of(answer.problem), answer.problem or "no output", raw)
            elif record.line in settled.left:
                self.bury_record(record, *settled.left[record.line], raw)
        self.write.done(settled.accepted)
        self.write.review(settled.doubtful)
        self.write.audit(settled.drawn)
        spoken = [Spoken(row.line, row.record_id, words[row.line].id) for row in settled.accepted if row.line in words]
        self.write.words(spoken)
        self.write.deliver([(records[row.line], row) for row in settled.accepted])
        self.tally.done += len(settled.accepted)
        self.tally.reviewed += len(spoken)
        self.tally.audit += len(settled.drawn)
        self.tally.review += len(settled.doubtful)
        self.tally.doubts.update(each.reason for each in settled.doubtful)

    def _monitored(self, record: Record, prompt: str, prediction: Prediction) -> Callable[[], Row]:
        return lambda: monitoring_row(self.champion.predictor.process, record.values, prompt, prediction)

    def bury_record(self, record: Record, reason: Reason, words: str, raw: bytes) -> None:
        """A dead letter of a record that could be read."""
        self.bury(record.id, record.line, reason, words, as_json(record.values), raw)

    def bury(self, id: str, line: int, reason: Reason, words: str, content: str, raw: bytes) -> None:
        """A dead letter, and the row as it came."""
        source, why = self.source, (reason.stage, reason.value, words, self.attempts.get(line, 1))
        self.write.dead([DeadLetter(id, line, *why, source.name, source.sha256, content, self.write.keep(raw))])
        self.tally.dead += 1
        self.tally.reasons[reason.value] += 1
        self.check_budget()

    def bury_missing(self) -> None:
        """Dead letters of what was asked about again and is not in the source any more."""
        for letter in self.terms.again.missing() if self.terms.again else ():
            self.tally.rows += 1
            self.attempts[letter.line] = letter.attempt + 1
            self.bury(letter.id, letter.line, Reason.GONE, "not found in the source any more", "", b"")

    def check_budget(self, ended: bool = False) -> None:
        """That not too many records are dead letters; a replay, which has only such, is not judged.

        Raises:
            ValueError: they are.
        """
        if not self.terms.again:
            check_budget(self.tally, self.terms.wanted.max_dead, shown(self.source.name), ended)


def _content_of(process: Process, record: Record) -> str:
    """A record as its dead letter holds it."""
    return as_json(repair(process, record, None).values)


def chunks(asked: Iterable[Asked]) -> Iterator[list[Asked]]:
    """Runs of records whose prompts and rows fit into memory together."""
    chunk: list[Asked] = []
    characters = 0
    for each in asked:
        chunk.append(each)
        characters += len(each.prompt) + len(each.raw)
        if len(chunk) == CHUNK_RECORDS or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def ahead(asking: Iterable[Asking]) -> Iterator[Asking]:
    """Each chunk once the one behind it has been read and asked about, so that workers never wait for this process."""
    before: Asking | None = None
    for each in asking:
        if before:
            yield before
        before = each
    if before:
        yield before


def _check_whole(source: Source, found: int, tally: Tally) -> None:
    if not found == tally.rows == tally.done + tally.review + tally.dead:
        counts = f"{found} records in the file, {tally.rows} read, {tally.done} accepted + {tally.review} to review + {tally.dead} dead"
        raise RuntimeError(f"{source.name}: the counts do not add up: {counts}; nothing is stored, please report this")
    if modified_at(source.path) != source.modified:
        raise ValueError(f"{source.name} was written to while it was scored; score it again when it is complete")


@contextmanager
def _progress(title: str) -> Iterator[Callable[[Tally], None]]:
    """Records, their pace and dead letters on a terminal, silence elsewhere."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console, started = Console(stderr=True), time.perf_counter()
    columns = (SpinnerColumn(), TextColumn("{task.description}  {task.fields[counts]}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        line = bar.add_task(title, total=None, counts="")

        def show(tally: Tally) -> None:
            pace = tally.rows / (time.perf_counter() - started)
            told = f"{tally.rows:,} records  {pace:,.0f} records/s  {tally.review:,} to review  {tally.dead:,} dead letters"
            bar.update(line, counts=told)

        yield show
