"""Ingestion: declared files, labelled files of inbox/, and reviews/ -> raw/records.jsonl, raw/rejected.jsonl and raw/report.json."""

import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.store import MissingObject, Store, copy_to, open_store
from tasks.artifacts import Artifact, copy_name, file_digest, modified_at, read_json, scratch, shown, store_folder, write_json
from tasks.ledger import Kind, settled_inbox
from tasks.process import Process
from tasks.prompts import output_of
from tasks.readers import Reader, is_labelled
from tasks.records import Record, to_line
from tasks.reviewing import settled_words, write_labelled
from tasks.runs import Run, once

log = logging.getLogger(__name__)

FILES = ("records.jsonl", "rejected.jsonl")
REVIEWED_FILES = "reviewed"  # what people have labelled is read as files below this
GOLD = f"{REVIEWED_FILES}/gold.jsonl"
UNLABELLED = "no record of it has an output"  # it waits to be scored

LeftOut = dict[str, str]  # name, and why it is left out
Targets = tuple[TextIO, TextIO]  # of records, of rejected rows


@dataclass(frozen=True, slots=True)
class Source:
    """One file to read: where it is, how people know it, and the split it is declared for."""

    path: Path
    name: str
    split: str = ""


def declared_sources(process: Process) -> list[Source]:
    """The files a declaration names; relative paths are beside process.yaml.

    Raises:
        FileNotFoundError: some are missing; all of them are named.
    """
    records = process.records
    named = [(name, "") for name in records.sources]
    named += [(name, split) for name, split in ((records.validation, "validation"), (records.test, "test")) if name]
    sources = [Source(process.folder / name, name, split) for name, split in named]
    if missing := [str(source.path) for source in sources if not source.path.is_file()]:
        raise FileNotFoundError(f"{process.name}: no such file: {', '.join(missing)}; see records in process.yaml")
    return sources


def reviewed_sources(process: Process, store: Store, folder: Path) -> list[Source]:
    """What people have reviewed, as labelled files with their split: gold is only measured with, the rest only trained on."""
    written = write_labelled(store, process, folder)
    return [Source(path, f"{REVIEWED_FILES}/{path.name}", split) for split, path in written.items()]


def copy_inbox(process: Process, store: Store, folder: Path) -> tuple[list[Source], list[LeftOut]]:
    """The inbox's files, copied into a folder, by key; and those that cannot be copied, such as one whose name is no key."""
    whole, written = settled_inbox(store, process)
    copied, left = [], [left_out(info.key, "it is still written to") for info in written]
    for place, info in enumerate(whole):
        path = folder / str(place) / copy_name(info.key)
        try:
            copy_to(store, info.key, path)
        except (MissingObject, PermissionError, ValueError) as error:
            left.append(left_out(info.key, "its name is not UTF-8" if isinstance(error, UnicodeError) else str(error)))
        else:
            copied.append(Source(path, info.key))
    return copied, left


def left_out(key: str, reason: str) -> LeftOut:
    """A file of the inbox that is not learned from; it stays where it is."""
    if reason != UNLABELLED:
        log.warning("%s is left out: %s", shown(key), reason)
    return {"name": shown(key), "left_out": reason}


def read_all(
    process: Process, sources: Iterable[Source], folder: Path, inbox: Iterable[Source] = (), kind: Kind | None = None
) -> dict[str, Any]:
    """Read every file into `records.jsonl` and `rejected.jsonl` of a folder, and say what each held.

    Args:
        inbox: files that are left out, and told with the reason, where they cannot be read as a whole or carry no outputs.
        kind: of records; the others are only counted, and there may be none.

    Raises:
        ValueError: no file has a row, or a file that is not of the inbox cannot be read as a whole.
    """
    left = []
    with _lines_of(folder) as targets:
        reports = [read_file(process, source, targets, kind) for source in sources]
        for source in inbox:
            try:
                reports.append(read_whole(process, source, targets, kind))
            except ValueError as error:
                left.append(left_out(source.name, str(error)))
    rows = sum(report["rows"] for report in reports)
    if not rows and kind is None:
        raise ValueError(f"{process.name}: no rows in {', '.join(report['name'] for report in reports)}")
    return {"files": reports, "rows": rows, "left_out": left}


def read_file(process: Process, source: Source, targets: Targets, kind: Kind | None = None) -> dict[str, Any]:
    """Append what a file holds of a kind, or all of it, row by row.

    Raises:
        ValueError: it cannot be read as a whole, or was written to meanwhile; what was read until then is appended.
    """
    before = modified_at(source.path) if source.path.is_file() else None
    reader = Reader(source.path, source.name, process, source.split, labelled=kind != "unlabelled")
    others = 0
    for row in reader:
        if kind and isinstance(row, Record) and not is_of(process, row, kind):
            others += 1
            continue
        targets[0 if isinstance(row, Record) else 1].write(to_line(row))
    report = reader.report
    if kind:
        report |= {"rows": report["rows"] - others, "others": others}
    if modified_at(source.path) != before:
        raise ValueError(f"{source.name} was written to while it was read; start again when it is complete")
    return report


def is_of(process: Process, record: Record, kind: Kind) -> bool:
    """Whether a record is of a kind; a form that is there and empty is of both."""
    output = output_of(process, record.values)
    return output is not None if kind == "labelled" else output in (None, {})


def read_whole(process: Process, source: Source, targets: Targets, kind: Kind | None = None) -> dict[str, Any]:
    """Append what a file holds, all of it or nothing.

    Raises:
        ValueError: it cannot be read as a whole, or none of its first records has an output and those without are not asked for.
    """
    if kind != "unlabelled" and not is_labelled(source.path, source.name, process):
        raise ValueError(UNLABELLED)
    with scratch() as folder:
        with _lines_of(folder) as own:
            report = read_file(process, source, own, kind)
        for name, target in zip(FILES, targets, strict=True):
            with (folder / name).open(encoding="utf-8", newline="\n") as lines:
                shutil.copyfileobj(lines, target)
    return report


@contextmanager
def _lines_of(folder: Path) -> Iterator[Targets]:
    """The two files of a folder that rows go to, open to be written."""
    folder.mkdir(parents=True, exist_ok=True)
    records, rejected = (folder / name for name in FILES)
    with records.open("w", encoding="utf-8", newline="\n") as good, rejected.open("w", encoding="utf-8", newline="\n") as bad:
        yield good, bad


@task(task_run_name="ingest-{run.process.name}", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=[1, 10])
def ingest(run: Run, kind: Kind | None = None) -> Artifact:
    """The declared sources, reviews/ and inbox/ -> raw/; or of them the records of one kind -> <kind>/raw/."""
    process, store = run.process, open_store()
    with scratch() as folder:
        inbox, left = copy_inbox(process, store, folder / "inbox") if process.records.inbox else ([], [])
        reviewed = settled_words(store, process)  # before they are read: one that comes meanwhile counts as new
        sources = [*declared_sources(process), *reviewed_sources(process, store, folder / "reviewed")]

        def work(store: Store, prefix: str, fingerprint: str) -> Artifact:
            report = read_all(process, sources, folder / "out", inbox, kind)
            report["reviewed"] = reviewed
            report["left_out"] = sorted([*left, *report["left_out"]], key=lambda file: file["name"])
            write_json(folder / "out" / "report.json", report)
            rejected = sum(file["rejected"] for file in report["files"])
            return store_folder(store, folder / "out", prefix, rows=report["rows"], files=len(report["files"]), rejected=rejected)

        files = {"files": digests(sources), "inbox": digests(inbox), "left_out": left}
        settings = process.part("name", "records", "sample", "output") | files
        raw = once(run, of_kind("ingestion", kind), of_kind("raw", kind), [], settings, work)
    if not raw.key.startswith(f"{run.prefix}/"):  # taken up from another run, whose warnings are this one's too
        for file in read_json(store, raw, "report.json")["left_out"]:
            left_out(file["name"], file["left_out"])
    return raw


def of_kind(name: str, kind: Kind | None) -> str:
    """What a stage, or its folder in a run, is called when it does records of one kind only."""
    return f"{kind}/{name}" if kind else name


def digests(sources: Sequence[Source]) -> dict[str, list[list[str]]]:
    """Name -> split and SHA-256 of every file of that name: a changed file is read again."""
    found: dict[str, list[list[str]]] = {}
    for source in sources:
        found.setdefault(source.name, []).append([source.split, file_digest(source.path)])
    return found
