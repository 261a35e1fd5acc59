"""Answering: records of a source + the model -> predictions, dead letters, and a sample for monitoring, chunk by chunk."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.cleaning import fold
from tasks.expectations import kind_of, kinds_for, within
from tasks.features import Reservoir, Row, monitoring_row
from tasks.process import Process
from tasks.prompts import clean
from tasks.readers import Reader
from tasks.records import Record, Rejected
from tasks.repairs import repair
from tasks.sinks import WRITERS, DeadLetter, Predicted, Write, as_json, json_lines
from tasks.sources import Source, check_columns, modified_at

if TYPE_CHECKING:
    from tasks.generation import Prediction, Predictor

CHUNK_RECORDS = 1024
CHUNK_CHARACTERS = 4_000_000  # of prompts; so that long records do not pile up
MONITORING_ROWS = 5_000  # the most that drift ever looks at


@dataclass(slots=True)
class Tally:
    """What became of a batch's records."""

    rows: int = 0
    done: int = 0
    dead: int = 0
    reasons: Counter[str] = field(default_factory=Counter)  # stage: reason -> records


def fault_in(process: Process, record: Record) -> str | None:
    """Why the model cannot be asked about a record, in words without values; None when it can."""
    for path, column in process.input_columns.items():
        value = record.values.get(path)
        if value is None and not column.optional:
            return f"required input {path} is missing"
        if value is None:
            continue
        kind, declared = kind_of(value, column), kinds_for(column)
        if kind not in declared:
            return f"input {path} is of type {kind}, {' or '.join(declared)} is declared"
        if not all(within(column, inner) for inner in (value if column.list else [value])):
            return f"input {path} is outside its declared values, bounds or pattern"
        if isinstance(value, str) and not column.optional and _is_blank(process, value):
            return f"required input {path} is blank"
    return None if any(record.values.get(path) not in (None, "", [], {}) for path in process.input_columns) else "every input is missing"


def _is_blank(process: Process, text: str) -> bool:
    """Whether nothing of a text is left to see after cleaning; most texts show it at their first letter."""
    if "<" not in text and "&" not in text and any(map(str.isalnum, text)):
        return False
    return not fold(clean(process, text))


def score_file(source: Source, predictor: "Predictor", process: Process, version: str, output_format: str, folder: Path) -> Tally:
    """Stream a file through the model into predictions.<format>, dead_letters.jsonl and monitoring.jsonl.

    Args:
        process: the model's own declaration, with today's word on how files are read.

    Raises:
        ValueError: the file cannot be read, or has none of the prompt's columns.
        RuntimeError: records in are not done + dead.
    """
    check_columns(source.path, source.name, process)
    reader, tally = Reader(source.path, source.name, process, labelled=False), Tally()
    monitoring = Reservoir[Row](MONITORING_ROWS, source.sha256 + version)
    writer = WRITERS[output_format]
    with (
        writer(folder / f"predictions.{output_format}", process) as write_done,
        json_lines(folder / "dead_letters.jsonl") as write_dead,
        _progress(f"Scoring {process.name}") as show,
    ):
        for chunk in chunks(_asked(reader, process, predictor, write_dead, tally)):
            _answer(chunk, predictor, version, monitoring, write_done, write_dead, tally)
            show(tally)
    with (folder / "monitoring.jsonl").open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(as_json(row) + "\n" for row in monitoring.rows)
    _check_whole(source, reader, tally)
    return tally


Asked = tuple[Record, str]  # a record and its prompt


def _asked(reader: Reader, process: Process, predictor: "Predictor", write_dead: Write, tally: Tally) -> Iterator[Asked]:
    """Records that the model can be asked about; the others go to the dead letters on the way."""
    for row in reader:
        tally.rows += 1
        if isinstance(row, Rejected):
            _bury(DeadLetter(row.id, row.line, "reading", row.reason, row.content), write_dead, tally)
            continue
        record = repair(process, row, None)
        if reason := fault_in(process, record):
            _bury(_letter(record, "inputs", reason), write_dead, tally)
        else:
            yield record, predictor.prompt_of(record.values)


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


def _answer(
    chunk: list[Asked],
    predictor: "Predictor",
    version: str,
    monitoring: Reservoir[Row],
    write_done: Write,
    write_dead: Write,
    tally: Tally,
) -> None:
    """Ask the model about a chunk and write what it says."""
    done = []
    for (record, prompt), prediction in zip(chunk, predictor.predict([prompt for _, prompt in chunk]), strict=True):
        monitoring.offer(_monitored(predictor.process, record, prompt, prediction))
        if prediction.output is None:
            _bury(_letter(record, "prediction", prediction.problem or "no output"), write_dead, tally)
        else:
            done.append(Predicted(record.id, prediction.output, prediction.confidence, version, record.line))
    write_done(done)
    tally.done += len(done)


def _monitored(process: Process, record: Record, prompt: str, prediction: "Prediction") -> Callable[[], Row]:
    return lambda: monitoring_row(process, record.values, prompt, prediction)


def _letter(record: Record, stage: str, reason: str) -> DeadLetter:
    return DeadLetter(record.id, record.line, stage, reason, as_json(record.values))


def _bury(letter: DeadLetter, write_dead: Write, tally: Tally) -> None:
    write_dead([letter])
    tally.dead += 1
    tally.reasons[f"{letter.stage}: {letter.reason}"] += 1


def _check_whole(source: Source, reader: Reader, tally: Tally) -> None:
    found = reader.counts["records"] + reader.counts["rejected"]
    if not found == tally.rows == tally.done + tally.dead:
        counts = f"{found} records in the file, {tally.rows} read, {tally.done} done + {tally.dead} dead"
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
            bar.update(line, counts=f"{tally.rows:,} records  {pace:,.0f} records/s  {tally.dead:,} dead letters")

        yield show
