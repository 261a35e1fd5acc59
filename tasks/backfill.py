"""Backfill: past days and the inbox -> each day's batches, made with the version that was champion on that day.

A file below `<process>/inbox/<YYYY-MM-DD>/` belongs to that day; any other file of the inbox to the day, in UTC, on which the store
got it. Put what may be backfilled into folders of days: an object that is written again, or copied to another bucket, is a newer one.
The champion of a day is who was champion when it ended, at midnight UTC: the one that a nightly run would have used.
"""

import json
import logging
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict

from infra.store import MissingObject, ObjectInfo, Store, open_store
from tasks.aliases import Move, champion_at, log_of
from tasks.artifacts import Artifact
from tasks.batches import counts_of
from tasks.drift import measure_day
from tasks.manifests import read_manifest
from tasks.process import Process
from tasks.readers import is_labelled
from tasks.runs import Run
from tasks.scoring import score_batch
from tasks.sources import check_columns, opened

logger = logging.getLogger(__name__)

MOST_DAYS = 366
PARTITION = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass(frozen=True, slots=True)
class Day:
    """What there is to do for one day."""

    date: date
    version: str
    keys: tuple[str, ...]  # of unlabelled files


class Filled(BaseModel):
    """What became of one day."""

    model_config = ConfigDict(frozen=True)

    day: str
    version: str
    rows: int
    done: int  # accepted
    audit: int  # of them
    review: int
    dead: int
    repeated: int = 0  # of them
    files: int
    reused: int  # of the files: their batch was there already
    drifted: bool | None = None  # None when it was not asked for
    why: str = ""


def day_of(process: str, info: ObjectInfo) -> date:
    """The day that a file of the inbox belongs to: its folder's, else that on which the store got it."""
    folder = info.key.removeprefix(f"{process}/inbox/").partition("/")[0]
    if PARTITION.fullmatch(folder):
        try:
            return date.fromisoformat(folder)
        except ValueError:  # 2026-02-31 is no day
            logger.warning("backfill: %s lies in a folder that is no day; the time of the object counts", info.key)
    return info.modified.astimezone(UTC).date()


def plan_days(store: Store, process: Process, first: date, last: date) -> list[Day]:
    """The days from first to last that have files to score, each with its champion; all that stands in the way is told at once.

    Raises:
        ValueError: the days are no span of the past, a day with files had no champion, or its champion is not there any more.
    """
    _check_span(first, last, datetime.now(UTC).date())
    moves, keys = log_of(store, process.name), _keys_by_day(store, process, first, last)
    versions = {day: champion_of_day(moves, day) for day in sorted(keys)}
    faults = [f"{day} has files and had no champion" for day, version in versions.items() if version is None]
    faults += [fault for version in sorted({each for each in versions.values() if each}) if (fault := _fault_of(store, process, version))]
    if faults:
        since = f"the first champion is of {moves[0].since[:10]}" if moves else f"train one: clerkflow train {process.name}"
        raise ValueError(f"{process.name}: nothing was backfilled: {'; '.join(faults)}. Choose other days; {since}")
    return [Day(day, version, tuple(keys[day])) for day, version in versions.items() if version]


def champion_of_day(moves: Sequence[Move], day: date) -> str | None:
    """The version that was champion when a day ended, in UTC; None when there was none yet."""
    return champion_at(moves, datetime.combine(day + timedelta(days=1), time.min, UTC) - timedelta(microseconds=1))


def _check_span(first: date, last: date, today: date) -> None:
    if last < first:
        raise ValueError(f"from {first} to {last} is no span of days: the first comes after the last")
    if last > today:
        raise ValueError(f"{last} has not come yet: today is {today} in UTC")
    if (last - first).days >= MOST_DAYS:
        raise ValueError(f"from {first} to {last} are {(last - first).days + 1} days; {MOST_DAYS} at most in one go")


def _keys_by_day(store: Store, process: Process, first: date, last: date) -> dict[date, list[str]]:
    """Unlabelled files of each day; one that cannot be read is left, with a warning, for it must not stop the rest."""
    found: dict[date, list[str]] = defaultdict(list)
    for info in store.list(f"{process.name}/inbox/"):
        day = day_of(process.name, info)
        if not first <= day <= last:
            continue
        try:
            if _is_to_be_scored(store, process, info.key):
                found[day].append(info.key)
        except ValueError as error:
            logger.warning("backfill: %s is left out: %s", info.key, error)
    return found


def _is_to_be_scored(store: Store, process: Process, key: str) -> bool:
    """Whether a file has the prompt's columns and no outputs.

    Raises:
        ValueError: it cannot be read, or has none of the prompt's columns.
    """
    with opened(store, key) as source:
        if is_labelled(source.path, source.name, process):
            return False
        check_columns(source.path, source.name, process)
    return True


def _fault_of(store: Store, process: Process, version: str) -> str:
    """Why a version cannot be used any more; empty when it can."""
    try:
        read_manifest(store, process.name, version)
    except (ValueError, MissingObject) as error:
        return str(error)
    return ""


@task(task_run_name="backfill-{run.process.name}-{day.date}", cache_policy=NO_CACHE)
def fill_day(day: Day, run: Run, flow: Literal["score", "monitor"], output_format: str = "jsonl") -> Filled:
    """One day's files scored with its champion, and compared with what that champion was tested on when asked for; what is done is found.

    Raises:
        ValueError: a file cannot be scored, or nothing can be compared.
    """
    found = [score_batch(key, run, output_format, day.version, wait=True) for key in day.keys]
    batches = [batch for batch in found if isinstance(batch, Artifact)]  # all, for it waits
    drift = measure_day(str(day.date), day.version, batches, run) if flow == "monitor" else None
    filled = Filled(
        day=str(day.date),
        version=day.version,
        files=len(batches),
        reused=sum(not _is_new(batch, run) for batch in batches),
        drifted=drift.facts["drifted"] if drift else None,
        why=drift.facts["why"] if drift else "",
        **counts_of(batches),
    )
    parts = (filled.rows, filled.done, filled.review, filled.dead)
    logger.info("backfill: %s with %s, rows %d = accepted %d + review %d + dead %d", day.date, day.version, *parts)
    return filled


def _is_new(batch: Artifact, run: Run) -> bool:
    """Whether this run made a batch."""
    return bool(json.loads(open_store().read(batch.prefix + "manifest.json")[0])["run"] == run.id)
