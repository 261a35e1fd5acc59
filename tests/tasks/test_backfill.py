"""Which days there are to fill, what belongs to each, and who was champion on it."""

import hashlib
import logging
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from benchmarks.memory import publish_tiny, tiny_process
from infra.store import ObjectInfo, Store
from tasks.aliases import Alias, Move, alias_key, champion_at, log_of
from tasks.backfill import champion_of_day, day_of, plan_days

PROCESS = tiny_process()


def champions(store: Store, process: str, *moves: tuple[str, str]) -> None:
    """Make versions champions at times of the past: (version, ISO 8601)."""
    history: list[Move] = []
    for number, (version, since) in enumerate(moves, 1):
        before = hashlib.sha256(history[-1].as_bytes()).hexdigest() if history else None
        previous = history[-1].version if history else None
        history.append(Move(number=number, version=version, previous=previous, since=since, reason="test", before=before))
    for info in list(store.list(f"{process}/models/aliases/")):
        store.delete(info.key)
    store.write(alias_key(process), Alias(**history[-1].model_dump(), history=tuple(history)).as_bytes())


def two_versions(tmp_path: Path) -> tuple[str, str]:
    """Two published versions of the tiny process."""
    other = PROCESS.model_copy(update={"description": "the second"})
    return publish_tiny(PROCESS, tmp_path / "one"), publish_tiny(other, tmp_path / "two")


def put(store: Store, key: str, *texts: str, more: str = "") -> None:
    """A file of the inbox."""
    lines = [f'{{"id": "{key[-9:]}-{number}", "text": "{text}"{more}}}\n' for number, text in enumerate(texts)]
    store.write(f"memory/inbox/{key}", "".join(lines).encode())


def test_the_champion_of_a_day_is_who_was_champion_when_it_ended() -> None:
    times = ("2026-11-01T10:00:00+00:00", "2026-11-03T00:00:00+00:00", "2026-11-03T23:59:59+00:00")
    moves = [Move(number=n, version=f"v{n}", previous=None, since=since, reason="") for n, since in enumerate(times, 1)]
    days = [date(2026, 10, 31), date(2026, 11, 1), date(2026, 11, 2), date(2026, 11, 3)]
    assert [champion_of_day(moves, day) for day in days] == [None, "v1", "v1", "v3"]
    assert champion_at(moves, datetime(2026, 11, 3, tzinfo=UTC)) == "v2"
    assert champion_at([], datetime.now(UTC)) is None


def test_a_file_belongs_to_the_day_of_its_folder_else_to_that_on_which_it_came() -> None:
    def day(key: str) -> date:
        return day_of("p", ObjectInfo(f"p/inbox/{key}", 1, "e", datetime(2026, 11, 5, 23, 30, tzinfo=UTC)))

    assert day("2026-11-01/a.jsonl") == day("2026-11-01/deep/a.jsonl") == date(2026, 11, 1)
    assert day("a.jsonl") == day("north/2026-11-01/a.jsonl") == day("2026-02-31/a.jsonl") == day("2026-11-01.jsonl") == date(2026, 11, 5)


def test_every_day_with_files_is_planned_with_its_champion(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = two_versions(tmp_path)
    champions(store, "memory", (first, "2026-11-01T08:00:00+00:00"), (second, "2026-11-03T08:00:00+00:00"))
    put(store, "2026-11-01/b.jsonl", "card")
    put(store, "2026-11-01/a.jsonl", "card")
    put(store, "2026-11-03/a.jsonl", "card")
    put(store, "2026-11-04/outside.jsonl", "card")
    put(store, "2026-11-02/labelled.jsonl", "card", more=', "queue": "refund"')
    store.write("memory/inbox/2026-11-02/odd.jsonl", b'{"id": "a", "body": "card"}\n')
    with caplog.at_level(logging.WARNING):
        days = plan_days(store, PROCESS, date(2026, 11, 1), date(2026, 11, 3))
    assert [(day.date.day, day.version, len(day.keys)) for day in days] == [(1, first, 2), (3, second, 1)]
    assert "odd.jsonl is left out" in caplog.text
    assert len(log_of(store, "memory")) == 2


def test_all_that_stands_in_the_way_is_told_at_once_and_nothing_is_done(store: Store, tmp_path: Path) -> None:
    first = publish_tiny(PROCESS, tmp_path / "one")
    champions(store, "memory", ("0" * 12, "2026-11-02T08:00:00+00:00"), (first, "2026-11-03T08:00:00+00:00"))
    for day in (1, 2, 3):
        put(store, f"2026-11-0{day}/a.jsonl", "card")
    with pytest.raises(ValueError, match=r"2026-11-01 has files and had no champion; memory has no version '000000000000'.*2026-11-02"):
        plan_days(store, PROCESS, date(2026, 11, 1), date(2026, 11, 3))
    assert [day.version for day in plan_days(store, PROCESS, date(2026, 11, 3), date(2026, 11, 3))] == [first]


def test_a_span_that_is_none_is_refused(store: Store) -> None:
    today = datetime.now(UTC).date()
    for first, last, words in (
        (date(2026, 1, 2), date(2026, 1, 1), "comes after"),
        (today, today + timedelta(days=2), "has not come yet"),
        (date(2020, 1, 1), date(2021, 6, 1), "366 at most"),
    ):
        with pytest.raises(ValueError, match=words):
            plan_days(store, PROCESS, first, last)
