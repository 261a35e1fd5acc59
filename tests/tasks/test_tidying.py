"""What is removed when it is old, and what stays because somebody refers to it."""

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.database import is_missing, ledger_url
from infra.results import sweep_results
from infra.spans import Spans
from infra.store import Store
from tasks.aliases import move_alias
from tasks.ledger import Arrival, enter, inbox_of
from tasks.process import Process
from tasks.registry import publish_version
from tasks.tidying import tidy

PROCESS = Process.model_validate(
    {
        "name": "p",
        "owner": "tests",
        "records": {"source": "sample.jsonl"},
        "sample": {"prompt": "Message: {text}\nQueue:"},
        "output": {"label": "queue"},
        "gate": [{"metric": "accuracy", "at_least": 0.5}],
        "keep": {"runs_days": 2, "batches_days": 20, "ledger_days": 20, "versions": 1},
    }
)
NOW = datetime.now(UTC)


def days(number: float) -> datetime:
    return NOW + timedelta(days=number)


def put(store: Store, key: str, value: object = "x") -> str:
    store.write(f"p/{key}", json.dumps(value).encode())
    return f"p/{key}"


def keys(store: Store) -> set[str]:
    return {info.key for info in store.list("p/")}


def removed(store: Store, after_days: float) -> set[str]:
    before = keys(store)
    tidy(store, PROCESS, dry_run=False, now=days(after_days))
    return before - keys(store)


def test_a_dry_run_counts_and_removes_nothing(store: Store) -> None:
    put(store, "runs/a/run.json")
    before = keys(store)
    assert tidy(store, PROCESS, now=days(3)).counts["runs"]["objects"] == 1
    assert keys(store) == before
    assert is_missing(ledger_url(), "CLERKFLOW_LEDGER_URL")


def test_old_runs_go_with_what_stages_remember_of_them_and_young_ones_stay(store: Store) -> None:
    gone = {put(store, "runs/a/run.json"), put(store, "runs/a/raw/records.jsonl")}
    gone.add(put(store, "stages/ingestion/1.json", {"artifact": {"key": "p/runs/a/raw/files.json"}}))
    gone |= {put(store, key) for key in ("checkpoints/f/1/weights", "studies/s.log", "claims/batches/b.json", "claims/retries/r.json")}
    put(store, "claims/train.json")  # its token must only grow
    put(store, "inbox/a.jsonl")
    assert removed(store, 1) == set()
    assert removed(store, 3) == gone


def test_a_run_that_a_kept_version_or_an_open_request_came_from_stays(store: Store) -> None:
    for run in ("a", "b", "c"):
        put(store, f"runs/{run}/run.json")
    version = publish_version(store, "p", {"m": Spans((b"1",))}, created="2024-01-01T00:00:00Z", run="a").version
    move_alias(store, "p", version, "test", instead_of=None)
    put(store, "approvals/x-1/request.json", {"run": "b"})
    assert removed(store, 3) == {"p/runs/c/run.json"}


def test_a_run_stays_while_a_younger_one_uses_its_artifacts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "runs/old/samples/files.json")
    put(store, "runs/older/run.json")
    put(store, "runs/new/stages/preparation.json", {"artifact": {"key": "p/runs/old/samples/files.json"}})
    modified = {info.key: info.modified for info in store.list("p/")}
    line = modified["p/runs/new/stages/preparation.json"]
    aged = type(store).list

    def listed(self: Store, prefix: str) -> object:
        return (info if "/new/" in info.key else replace(info, modified=info.modified - timedelta(days=9)) for info in aged(self, prefix))

    monkeypatch.setattr(type(store), "list", listed)
    assert set(modified) - {info.key for info in (tidy(store, PROCESS, dry_run=False, now=line), aged(store, "p/"))[1]} == {
        "p/runs/older/run.json"
    }


def test_predictions_and_drift_reports_stay_longer_and_go_whole(store: Store) -> None:
    gone = {put(store, "batches/b/predictions.jsonl"), put(store, "batches/b/manifest.json"), put(store, "drift/d/drift.json")}
    assert removed(store, 3) == set()
    assert removed(store, 21) == gone


def test_the_entry_of_a_file_that_still_stands_in_the_inbox_stays(store: Store) -> None:
    put(store, "inbox/here.jsonl")
    here = next(iter(inbox_of(store, "p")))
    for key, etag, state in (
        (here.key, here.etag, "processed"),
        (here.key, "changed", "processed"),
        ("p/inbox/gone.jsonl", "1", "dead-lettered"),
        ("p/inbox/waits.jsonl", "1", "pending"),
    ):
        enter(store, Arrival.model_validate({"key": key, "etag": etag, "size": 1, "seen": NOW, "changed": NOW, "state": state}))
    assert len(removed(store, 21)) == 2
    left = {json.loads(store.read(info.key)[0])["etag"] for info in store.list("p/arrivals/")}
    assert left == {here.etag, "1"}


def test_old_result_files_of_prefect_are_swept(tmp_path: Path) -> None:
    from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

    old, young = tmp_path / "old", tmp_path / "young"
    for file in (old, young):
        file.write_text("x")
    os.utime(old, (0, 0))
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path}):
        assert sweep_results(30, dry_run=True) == {"objects": 1, "bytes": 1}
        sweep_results(30, dry_run=False)
    assert not old.exists()
    assert young.exists()
