"""Past days through the real flow, a real Prefect server and a real store, with tiny models that were never trained."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import pytest
import yaml

from benchmarks.memory import tiny_process
from infra.store import Store, open_store
from tests.tasks import test_backfill as days

ROOT = Path(__file__).resolve().parents[2]
FIRST, LAST = date(2026, 11, 1), date(2026, 11, 4)


@pytest.fixture
def declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny process, in a folder of declarations."""
    folder = tmp_path / "processes" / "memory"
    folder.mkdir(parents=True)
    (folder / "process.yaml").write_text(yaml.safe_dump(tiny_process().model_dump(mode="json")), encoding="utf-8")
    monkeypatch.setenv("CLERKFLOW_PROCESSES", str(folder.parent))


def four_days(store: Store, tmp_path: Path) -> tuple[str, str]:
    """Files on four days; the champion changed on the third."""
    first, second = days.two_versions(tmp_path)
    days.champions(store, "memory", (first, "2026-11-01T08:00:00+00:00"), (second, "2026-11-03T08:00:00+00:00"))
    for day in range(1, 5):
        days.put(store, f"2026-11-0{day}/a.jsonl", *(f"card {day} {number}" for number in range(day)), "")
    return first, second


def test_each_day_is_scored_once_with_the_model_that_was_champion_on_it(declared: None, server: str, store: Store, tmp_path: Path) -> None:
    from flows.backfill import backfill

    first, second = four_days(store, tmp_path)
    filled = backfill("memory", FIRST, LAST, parallel=2)
    assert [(day.day[-1], day.version) for day in filled] == [("1", first), ("2", first), ("3", second), ("4", second)]
    assert [(day.rows, day.done, day.dead, day.reused) for day in filled] == [(2, 1, 1, 0), (3, 2, 1, 0), (4, 3, 1, 0), (5, 4, 1, 0)]
    assert [day.reused for day in backfill("memory", FIRST, LAST)] == [1, 1, 1, 1]
    assert len([info for info in store.list("memory/batches/") if info.key.endswith("/manifest.json")]) == 4


def test_past_days_are_monitored_against_the_model_of_their_day_and_one_that_fails_does_not_stop_the_rest(
    declared: None, server: str, tmp_path: Path
) -> None:
    from flows.backfill import backfill

    store = open_store()
    four_days(store, tmp_path)
    filled = backfill("memory", FIRST, LAST, "monitor")
    assert all(day.drifted is False and "not enough records" in day.why for day in filled)
    reports = [json.loads(store.read(info.key)[0]) for info in store.list("memory/drift/") if info.key.endswith("/drift.json")]
    assert [(report["day"], report["model_version"]) for report in reports] == [(day.day, day.version) for day in filled]
    backfill("memory", FIRST, LAST, "monitor")
    assert len([info for info in store.list("memory/drift/") if info.key.endswith("/drift.json")]) == 4

    with pytest.raises(ValueError, match=r"1 of 4 days failed \(2026-11-04\): .*no column can be compared"):
        backfill("memory", FIRST, LAST, "monitor", overrides={"drift": {"min_records": 4}})  # the tiny model has no reference


def test_a_backfill_that_was_killed_goes_on_where_it_stopped_at_the_command_line(declared: None, server: str, tmp_path: Path) -> None:
    store = open_store()
    four_days(store, tmp_path)
    line = [sys.executable, "-m", "flows", "backfill", "memory", "--from", str(FIRST), "--to", str(LAST), "--parallel", "1"]
    child = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(1200):
        if child.poll() is not None or any(info.key.endswith("/manifest.json") for info in store.list("memory/batches/")):
            break
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait(20)
    done = {info.key: info.etag for info in store.list("memory/batches/") if info.key.endswith("/manifest.json")}
    assert 1 <= len(done) < 4
    answer = subprocess.run(line, cwd=ROOT, env=os.environ | {"COLUMNS": "200"}, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr
    now = {info.key: info.etag for info in store.list("memory/batches/") if info.key.endswith("/manifest.json")}
    assert (len(now), {key: now[key] for key in done}) == (4, done)
    assert all(f"2026-11-0{day}" in answer.stdout for day in range(1, 5))


def test_days_without_a_champion_are_refused_at_the_command_line(declared: None, server: str) -> None:
    days.put(open_store(), "2026-11-02/a.jsonl", "card")
    line = [sys.executable, "-m", "flows", "backfill", "memory", "--from", str(FIRST), "--to", str(LAST)]
    answer = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (answer.returncode, "Traceback" in answer.stderr) == (1, False)
    assert "2026-11-02 has files and had no champion" in answer.stderr
