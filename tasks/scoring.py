"""Scoring: the champion and new records -> batches/<batch>/: predictions, dead_letters.jsonl, monitoring.jsonl, and manifest.json last.

A batch is named after what decides its bytes: the source, the model's version, the format. A batch that is done is found again; one that
was killed starts anew and ends the same. Whoever reads batches goes by their manifests, so that half a batch is never seen.
"""

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from infra.settings import settings
from infra.store import MissingObject, Store, copy_to, open_store
from tasks.aliases import champion_of
from tasks.artifacts import Artifact, copy_name, file_digest, is_whole, json_bytes, scratch, shown, store_folder
from tasks.claims import Claim, Held, Hold, batch_key, check, claimed
from tasks.cleaning import fold
from tasks.encodings import byte_lines, encoding_of, text_codec
from tasks.expectations import kind_of, kinds_for, within
from tasks.features import Reservoir, Row, monitoring_row
from tasks.process import Process, digest_of
from tasks.prompts import clean
from tasks.readers import Reader, columns_told, parse_object
from tasks.records import Record, Rejected
from tasks.registry import fetch_version
from tasks.repairs import repair
from tasks.runs import Run, told
from tasks.sinks import WRITERS, DeadLetter, Predicted, Write, as_json, json_lines

if TYPE_CHECKING:
    from tasks.generation import Prediction, Predictor

logger = logging.getLogger(__name__)

CHUNK_RECORDS = 1024
CHUNK_CHARACTERS = 4_000_000  # of prompts; so that long records do not pile up
LOOK_AT = 100  # records that show which columns a file has
MONITORING_ROWS = 5_000  # the most that drift ever looks at


@dataclass(slots=True)
class Tally:
    """What became of a batch's records."""

    rows: int = 0
    done: int = 0
    dead: int = 0
    reasons: Counter[str] = field(default_factory=Counter)  # stage: reason -> records


@dataclass(frozen=True, slots=True)
class Source:
    """A file to be scored: its bytes on this machine, and what they are called."""

    path: Path
    name: str  # the key, or the file's name
    sha256: str
    modified: tuple[int, int]  # size and time in ns when it was hashed


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
    if _modified(source.path) != source.modified:
        raise ValueError(f"{source.name} was written to while it was scored; score it again when it is complete")


def check_columns(path: Path, name: str, process: Process) -> None:
    """That the first records of a file have a value that the prompt shows; tables are also checked by their reader.

    Raises:
        ValueError: they have none; the message names the columns expected, and of those found the ones like them.
    """
    reader = Reader(path, name, process, labelled=False)
    first = [row for row in islice(reader, LOOK_AT) if isinstance(row, Record)]
    if not first or any(record.values.get(path) is not None for record in first for path in process.input_columns):
        return
    told = f"{name}: no value in the prompt's columns {', '.join(process.input_columns)} in the first {len(first)} records"
    if reader.facts["format"] == "jsonl":
        told += f"; {columns_told(_names_in(path, process), process)}"
    raise ValueError(told)


def _names_in(path: Path, process: Process) -> Collection[str]:
    """The names in the first objects of a file of JSON lines."""
    found: dict[str, None] = {}
    for line, _ in islice(byte_lines(path, encoding := encoding_of(path, process.records.encoding)), LOOK_AT):
        with suppress(ValueError):
            found |= dict.fromkeys(parse_object(line.decode(text_codec(encoding))))
    return found


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


def batch_id(source_sha256: str, name: str, process: Process, version: str, output_format: str) -> str:
    """The batch's name: the source and how it is read, the model's version, the format."""
    return f"{source_id(source_sha256, name, process)}-{version}-{output_format}"


def source_id(source_sha256: str, name: str, process: Process) -> str:
    """A source as the beginning of its batches' names: the same bytes under another ending are read differently."""
    reading = process.records.model_dump(mode="json", include={"encoding", "sheet", "key"})
    return digest_of([source_sha256, Path(name).suffix.lower(), reading])[:16]


def read_as_today(own: Process, today: Process) -> Process:
    """The model's own declaration, with today's word on ids, encoding and sheet: these say how a file is read, not what the model takes."""
    update = {name: getattr(today.records, name) for name in ("key", "encoding", "sheet")}
    return own.model_copy(update={"records": own.records.model_copy(update=update)})


@contextmanager
def opened(store: Store, name: str) -> Iterator[Source]:
    """A file on disk, or a key's object copied to this machine.

    Raises:
        ValueError: there is neither.
    """
    path = Path(name)
    if os.path.isfile(name):  # noqa: PTH113 - Path.is_file raises for a name that is too long
        modified = _modified(path)
        yield Source(path, path.name, file_digest(path), modified)
        return
    with scratch() as folder:
        copy = folder / copy_name(name)
        try:
            digest = copy_to(store, name, copy)
        except (MissingObject, ValueError):
            raise ValueError(f"{name!r} is neither a file here nor a key of {store.uri}") from None
        yield Source(copy, name, digest, _modified(copy))


def _modified(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


class Batch(BaseModel):
    """What others go by in the manifest of a finished batch."""

    model_config = ConfigDict(frozen=True)

    batch: str
    version: str
    finished: AwareDatetime
    artifact: Artifact


def read_batch(store: Store, key: str) -> Batch:
    """What a batch's manifest says.

    Raises:
        MissingObject: it is not there.
        ValueError: it is damaged.
    """
    data, _ = store.read(key)
    try:
        return Batch.model_validate_json(data)
    except ValidationError:
        raise ValueError(f"{store.address(key)} is damaged, and its batch counts as not done; score its file again, or delete it") from None


def recall(store: Store, prefix: str) -> Artifact | None:
    """A finished batch; None when its manifest is not there or damaged, or a file that it names is gone."""
    try:
        artifact = read_batch(store, f"{prefix}/manifest.json").artifact
    except (MissingObject, ValueError):
        return None
    return artifact if is_whole(store, artifact) else None


def finished_batch(store: Store, process: Process, sha256: str, name: str) -> str | None:
    """The batch that has scored a source already, with whatever version; None when there is none whose manifest can be read."""
    prefix = f"{process.name}/batches/"
    for info in store.list(f"{prefix}{source_id(sha256, name, process)}-"):
        if info.key.endswith("/manifest.json"):
            with suppress(MissingObject, ValueError):
                read_batch(store, info.key)
                return info.key.removeprefix(prefix).partition("/")[0]
    return None


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
    predictor = Predictor.load(fetch_version(store, run.process.name, version, settings().cache))
    process = read_as_today(predictor.process, run.process)
    with scratch() as folder:
        tally = score_file(source, predictor, process, version, output_format, folder)
        seconds = time.perf_counter() - clock
        facts = {
            "batch": prefix.rpartition("/")[2],
            "source": source.name,
            "version": version,
            "format": output_format,
            "rows": tally.rows,
            "done": tally.done,
            "dead": tally.dead,
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
            "started": started.isoformat(),
            "finished": datetime.now(UTC).isoformat(),
            "artifact": artifact.model_dump(mode="json"),
        }
        check(store, hold)
        key, etag = f"{prefix}/manifest.json", damaged.etag if damaged else None
        store.write(key, json_bytes(manifest), if_absent=damaged is None, if_match=etag)
    logger.info("scoring: %s", told(artifact, artifact.facts["seconds"], False))
    return artifact
