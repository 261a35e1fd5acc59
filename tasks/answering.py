"""Answering: records of a source + what models have answered + the model -> predictions, what to review, dead letters, a sample to monitor.

Chunk by chunk, so that memory stays flat. The model is asked only about what the ledger of answers does not know.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.answers import Answers, key_of
from tasks.cleaning import fold
from tasks.expectations import kind_of, kinds_for, within
from tasks.features import Reservoir, Row, monitoring_row
from tasks.predictions import Prediction
from tasks.process import Process
from tasks.prompts import clean
from tasks.readers import Reader
from tasks.reasons import Reason, reason_of
from tasks.records import Record, Rejected
from tasks.repairs import repair
from tasks.routing import FILE as REVIEW
from tasks.routing import Proposed, Router
from tasks.sinks import WRITERS, DeadLetter, Predicted, Write, as_json, json_lines
from tasks.sources import Source, check_columns, modified_at

if TYPE_CHECKING:
    from tasks.generation import Predictor

CHUNK_RECORDS = 1024
CHUNK_CHARACTERS = 4_000_000  # of prompts; so that long records do not pile up
MONITORING_ROWS = 5_000  # the most that drift ever looks at


@dataclass(slots=True)
class Tally:
    """What became of a batch's records."""

    rows: int = 0
    done: int = 0  # accepted
    review: int = 0
    dead: int = 0
    asked: int = 0  # of the model; the others were known
    reasons: Counter[str] = field(default_factory=Counter)  # code -> dead letters
    doubts: Counter[str] = field(default_factory=Counter)  # reason -> records to review


@dataclass(frozen=True, slots=True)
class Champion:
    """Who is asked."""

    predictor: "Predictor"
    version: str
    root: str  # of the version's manifest
    router: Router


Asked = tuple[Record, str]  # a record and its prompt


def fault_in(process: Process, record: Record) -> tuple[Reason, str] | None:
    """Why the model cannot be asked about a record, in words without values; None when it can."""
    for path, column in process.input_columns.items():
        value = record.values.get(path)
        if value is None and not column.optional:
            return Reason.INPUT_MISSING, f"required input {path} is missing"
        if value is None:
            continue
        kind, declared = kind_of(value, column), kinds_for(column)
        if kind not in declared:
            return Reason.INPUT_TYPE, f"input {path} is of type {kind}, {' or '.join(declared)} is declared"
        if not all(within(column, inner) for inner in (value if column.list else [value])):
            return Reason.INPUT_OUTSIDE, f"input {path} is outside its declared values, bounds or pattern"
        if isinstance(value, str) and not column.optional and _is_blank(process, value):
            return Reason.INPUT_BLANK, f"required input {path} is blank"
    if all(record.values.get(path) in (None, "", [], {}) for path in process.input_columns):
        return Reason.INPUT_NONE, "every input is missing"
    return None


def _is_blank(process: Process, text: str) -> bool:
    """Whether nothing of a text is left to see after cleaning; most texts show it at their first letter."""
    if "<" not in text and "&" not in text and any(map(str.isalnum, text)):
        return False
    return not fold(clean(process, text))


def score_file(source: Source, champion: Champion, process: Process, ledger: Answers, output_format: str, folder: Path) -> Tally:
    """Stream a file through the model into predictions.<format>, review.jsonl, dead_letters.jsonl and monitoring.jsonl.

    Args:
        process: the model's own declaration, with today's word on how files are read.

    Raises:
        DatabaseAwayError: the ledger does not answer; what was answered until then is in it.
        ValueError: the file cannot be read, or has none of the prompt's columns.
        RuntimeError: records in are not accepted + review + dead.
    """
    check_columns(source.path, source.name, process)
    reader = Reader(source.path, source.name, process, labelled=False)
    with (
        WRITERS[output_format](folder / f"predictions.{output_format}", process) as write_done,
        json_lines(folder / REVIEW) as write_review,
        json_lines(folder / "dead_letters.jsonl") as write_dead,
        _progress(f"Scoring {process.name}") as show,
    ):
        job = Job(source, champion, process, ledger, write_done, write_review, write_dead)
        for chunk in chunks(job.asked(reader)):
            job.answer(chunk)
            show(job.tally)
    with (folder / "monitoring.jsonl").open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(as_json(row) + "\n" for row in job.monitoring.rows)
    _check_whole(source, reader, job.tally)
    return job.tally


class Job:
    """A batch while it is made."""

    def __init__(
        self,
        source: Source,
        champion: Champion,
        process: Process,
        ledger: Answers,
        write_done: Write,
        write_review: Write,
        write_dead: Write,
    ) -> None:
        self.source, self.champion, self.process, self.ledger = source, champion, process, ledger
        self.write_done, self.write_review, self.write_dead = write_done, write_review, write_dead
        self.tally = Tally()
        self.monitoring = Reservoir[Row](MONITORING_ROWS, source.sha256 + champion.version)

    def asked(self, reader: Iterable[Record | Rejected]) -> Iterator[Asked]:
        """Records that the model can be asked about; the others go to the dead letters on the way."""
        for row in reader:
            self.tally.rows += 1
            if isinstance(row, Rejected):
                self.bury(row.id, row.line, Reason.UNREADABLE, row.reason, row.content)
                continue
            record = repair(self.process, row, None)
            if fault := fault_in(self.process, record):
                self.bury_record(record, *fault)
            else:
                yield record, self.champion.predictor.prompt_of(record.values)

    def answer(self, chunk: Sequence[Asked]) -> None:
        """Find or ask what is said to a chunk, keep what is new, and write it all down."""
        predictor = self.champion.predictor
        keys = [key_of(self.champion.root, predictor.decoding, record.id, prompt) for record, prompt in chunk]
        known = self.ledger.known(list(dict.fromkeys(keys)))
        new = {key: prompt for key, (_, prompt) in zip(keys, chunk, strict=True) if key not in known}
        said = dict(zip(new, predictor.predict(list(new.values())), strict=True))
        self.tally.asked += len(said)
        with self.ledger.keep(self.process.name, said) as (_, counted):
            known |= counted
        self._write(chunk, [known[key] for key in keys])

    def _write(self, chunk: Sequence[Asked], predictions: Sequence[Prediction]) -> None:
        """Each record of a chunk to where it belongs."""
        done, doubtful = list[Predicted](), list[Proposed]()
        routed = self.champion.router.route([record for record, _ in chunk], [prompt for _, prompt in chunk], predictions)
        for (record, prompt), prediction, proposed in zip(chunk, predictions, routed, strict=True):
            self.monitoring.offer(self._monitored(record, prompt, prediction))
            if prediction.output is None:
                self.bury_record(record, reason_of(prediction.problem), prediction.problem or "no output")
            elif proposed:
                doubtful.append(proposed)
            else:
                done.append(Predicted(record.id, prediction.output, prediction.confidence, self.champion.version, record.line))
        self.write_done(done)
        self.write_review(doubtful)
        self.tally.done += len(done)
        self.tally.review += len(doubtful)
        self.tally.doubts.update(each.reason for each in doubtful)

    def _monitored(self, record: Record, prompt: str, prediction: Prediction) -> Callable[[], Row]:
        return lambda: monitoring_row(self.champion.predictor.process, record.values, prompt, prediction)

    def bury_record(self, record: Record, reason: Reason, words: str) -> None:
        """A dead letter of a record that could be read."""
        self.bury(record.id, record.line, reason, words, as_json(record.values))

    def bury(self, id: str, line: int, reason: Reason, words: str, content: str) -> None:
        """A dead letter."""
        source = self.source
        self.write_dead([DeadLetter(id, line, reason.stage, reason.value, words, 1, source.name, source.sha256, content)])
        self.tally.dead += 1
        self.tally.reasons[reason.value] += 1


def chunks(asked: Iterable[Asked]) -> Iterator[list[Asked]]:
    """Runs of records whose prompts fit into memory together."""
    chunk: list[Asked] = []
    characters = 0
    for record, prompt in asked:
        chunk.append((record, prompt))
        characters += len(prompt)
        if len(chunk) == CHUNK_RECORDS or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _check_whole(source: Source, reader: Reader, tally: Tally) -> None:
    found = reader.counts["records"] + reader.counts["rejected"]
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
