"""Tidying: what runs have left behind -> what is still needed: old runs, memories, studies, checkpoints, batches, drift, entries go.

Never removed: what is younger than the declaration says; a run that a published version, an open request or a younger run refers to; the
ledger's entry of a file that still stands in the inbox; the inbox itself, and who decided what: these belong to people. Versions and
their shards are retention's, which goes first, so that runs which only a dropped version came from can go, too.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from infra.database import is_missing
from infra.store import MissingObject, ObjectInfo, Store
from tasks.answers import ledger_of, opened_ledger
from tasks.ledger import inbox_of, read_ledger
from tasks.manifests import manifest_key
from tasks.process import Process
from tasks.registry import versions_of
from tasks.retention import Collection, collect

logger = logging.getLogger(__name__)

FINISHED = ("processed", "quarantined", "dead-lettered")


@dataclass(slots=True)
class Tidied:
    """What goes: objects by kind, and versions with what only they needed."""

    versions: Collection
    objects: dict[str, list[ObjectInfo]] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=lambda: {"objects": 0, "bytes": 0})  # of models, in the ledger's database

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Kind -> objects and bytes."""
        kinds = self.objects | {"versions": list(self.versions.objects)}
        counts = {kind: {"objects": len(infos), "bytes": sum(info.size for info in infos)} for kind, infos in kinds.items()}
        return counts | {"answers": self.answers}


def tidy(store: Store, process: Process, dry_run: bool = True, now: datetime | None = None) -> Tidied:
    """Remove what is kept no longer, or only say what would go.

    Args:
        now: by the store's clock; this machine's when absent, since days are counted here.

    Raises:
        Conflict: another collection runs.
        DatabaseAwayError: the ledger's database does not answer.
        ValueError: a manifest or request is damaged, so that nobody knows what it needs.
    """
    name, now = process.name, now or datetime.now(UTC)
    found = Tidied(collect(store, name, process.keep.versions, dry_run=dry_run))
    found.objects = plan(store, process, found.versions.dropped, now)
    for info in _in_order(found.objects) if not dry_run else ():
        store.delete(info.key)
    if not is_missing(*(database := ledger_of(process))):
        with opened_ledger(*database) as ledger:
            found.answers = ledger.forget(name, now - timedelta(days=process.keep.answers_days), dry_run)
    if not dry_run:
        logger.info("%s: removed %s", name, found.counts)
    return found


def plan(store: Store, process: Process, dropped: Iterable[str], now: datetime) -> dict[str, list[ObjectInfo]]:
    """Kind -> objects that may go.

    Args:
        dropped: versions that go, or went just now: what they came from is needed no longer.
    """
    name, keep = process.name, process.keep
    run_line, batch_line = now - timedelta(days=keep.runs_days), now - timedelta(days=keep.batches_days)
    runs = _folders(store, f"{name}/runs/")
    young = {run for run, infos in runs.items() if _newest(infos) >= run_line}
    needed = young | _referred(store, process, runs, young, set(dropped))
    gone = {run for run in runs if run not in needed}
    memories = [info for info in store.list(f"{name}/stages/") if info.modified < run_line]
    return {
        "runs": [info for run in sorted(gone) for info in runs[run]],
        "stage memories": [info for info in memories if _runs_in(name, _read(store, info.key)) - needed],
        "studies": [info for info in store.list(f"{name}/studies/") if info.modified < run_line],
        "checkpoints": _old(_folders(store, f"{name}/checkpoints/"), run_line),
        "batches": _old(_folders(store, f"{name}/batches/"), batch_line),
        "drift": _old(_folders(store, f"{name}/drift/"), batch_line),
        "claims": [info for kind in ("batches", "retries") for info in store.list(f"{name}/claims/{kind}/") if info.modified < run_line],
        "ledger": _left(store, name, now - timedelta(days=keep.ledger_days)),
    }


def _folders(store: Store, prefix: str) -> dict[str, list[ObjectInfo]]:
    """Folder below a prefix -> its objects."""
    folders: dict[str, list[ObjectInfo]] = {}
    for info in store.list(prefix):
        folders.setdefault(info.key.removeprefix(prefix).partition("/")[0], []).append(info)
    return folders


def _newest(infos: list[ObjectInfo]) -> datetime:
    return max(info.modified for info in infos)


def _old(folders: dict[str, list[ObjectInfo]], line: datetime) -> list[ObjectInfo]:
    """Objects of folders in which nothing is younger than a line: a folder goes as a whole."""
    return [info for infos in folders.values() if _newest(infos) < line for info in infos]


def _referred(store: Store, process: Process, runs: dict[str, list[ObjectInfo]], young: set[str], dropped: set[str]) -> set[str]:
    """Runs that a kept version came from, that an approval speaks of, or whose artifacts a younger run has found and used again."""
    name = process.name
    versions = [manifest_key(name, each.version) for each in versions_of(store, name) if each.version not in dropped]
    requests = [info.key for info in store.list(f"{name}/approvals/") if info.key.endswith("/request.json")]
    notes = [info.key for run in young for info in runs[run] if info.key.endswith("/run.json") or "/stages/" in info.key]
    found: set[str] = set()
    for key in (*versions, *requests, *notes):
        text = _read(store, key)
        found |= _runs_in(name, text)
        if key not in notes:
            found |= {run for run in runs if f'"{run}"' in text}
    return found


def _read(store: Store, key: str) -> str:
    try:
        return store.read(key)[0].decode("utf-8", errors="replace")
    except MissingObject:
        return ""


def _runs_in(name: str, text: str) -> set[str]:
    """Runs whose keys stand in a text."""
    return set(re.findall(rf'"{re.escape(name)}/runs/([^/"]+)/', text))


def _left(store: Store, name: str, line: datetime) -> list[ObjectInfo]:
    """Finished entries of files that are gone from the inbox, or have changed since; without an entry, a file would be taken again."""
    here = {(info.key, info.etag) for info in inbox_of(store, name)}
    arrivals = read_ledger(store, name).arrivals
    old = {each.place for at, each in arrivals.items() if at not in here and each.state in FINISHED and each.changed < line}
    return [info for info in store.list(f"{name}/arrivals/") if info.key in old and info.modified < line]


def _in_order(objects: dict[str, list[ObjectInfo]]) -> Iterator[ObjectInfo]:
    """Memories before the runs that they name, and of a folder what vouches for the rest first: nothing that is left is half there."""
    order = Counter({"stage memories": 2, "batches": 1, "drift": 1})
    for kind in sorted(objects, key=lambda kind: -order[kind]):
        yield from sorted(objects[kind], key=lambda info: not info.key.endswith(("/manifest.json", "/files.json", "/drift.json")))
