"""Ingestion: the declared files and the labelled files of inbox/ -> raw/records.jsonl, raw/rejected.jsonl and raw/report.json."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.store import Store, copy_to, open_store
from tasks.artifacts import Artifact, file_digest, scratch, store_folder, write_json
from tasks.ledger import settled_inbox
from tasks.process import Process
from tasks.readers import Reader, is_labelled
from tasks.records import Record, to_line
from tasks.runs import Run, once

log = logging.getLogger(__name__)


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


def inbox_sources(process: Process, store: Store, folder: Path) -> tuple[list[Source], list[dict[str, Any]]]:
    """The inbox's files that carry outputs, copied into a folder, by key; and those left out, with the reason.

    A file that cannot be read stays where it is and does not keep the others from being learned from.
    """
    whole, written = settled_inbox(store, process)
    taken, left = [], [{"name": info.key, "left_out": "it is still written to"} for info in written]
    for place, info in enumerate(whole):
        path = folder / str(place) / Path(info.key).name
        copy_to(store, info.key, path)
        try:
            if is_labelled(path, info.key, process):
                taken.append(Source(path, info.key))
            else:
                left.append({"name": info.key, "left_out": "no record of it has an output"})
        except ValueError as error:
            left.append({"name": info.key, "left_out": str(error)})
            log.warning("%s is left out: %s", info.key, error)
    return taken, left


def read_all(process: Process, sources: Iterable[Source], folder: Path) -> dict[str, Any]:
    """Read every file into `records.jsonl` and `rejected.jsonl` of a folder, and say what each held.

    Raises:
        ValueError: no file has a row, or a file as a whole cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    reports = []
    with (
        (folder / "records.jsonl").open("w", encoding="utf-8", newline="\n") as records,
        (folder / "rejected.jsonl").open("w", encoding="utf-8", newline="\n") as rejected,
    ):
        for source in sources:
            reader = Reader(source.path, source.name, process, source.split)
            for row in reader:
                target = records if isinstance(row, Record) else rejected
                target.write(to_line(row))
            reports.append(reader.report)
    rows = sum(report["rows"] for report in reports)
    if not rows:
        raise ValueError(f"{process.name}: no rows in {', '.join(report['name'] for report in reports)}")
    return {"files": reports, "rows": rows}


@task(task_run_name="ingest-{run.process.name}", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=[1, 10])
def ingest(run: Run) -> Artifact:
    """The declared sources and inbox/ -> raw/."""
    process, store = run.process, open_store()
    with scratch() as folder:
        inbox, left = inbox_sources(process, store, folder / "inbox") if process.records.inbox else ([], [])
        sources = [*declared_sources(process), *inbox]

        def work(store: Store, prefix: str, fingerprint: str) -> Artifact:
            report = read_all(process, sources, folder / "out")
            write_json(folder / "out" / "report.json", report | {"left_out": left})
            rejected = sum(file["rejected"] for file in report["files"])
            return store_folder(store, folder / "out", prefix, rows=report["rows"], files=len(sources), rejected=rejected)

        settings = process.part("name", "records", "sample", "output") | {"files": digests(sources), "left_out": left}
        return once(run, "ingestion", "raw", [], settings, work)


def digests(sources: Sequence[Source]) -> list[list[str]]:
    """Name, split and SHA-256 of every file: a changed file is read again."""
    return [[source.name, source.split, file_digest(source.path)] for source in sources]
