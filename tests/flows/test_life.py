"""The life of one model through the real flows, a real Prefect server and a real store."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.memory import publish_tiny, tiny_process
from infra.bucket import MinioStore
from infra.store import Store, open_store
from tasks.aliases import champion_of
from tasks.registry import versions_of

ROOT = Path(__file__).resolve().parents[2]


def conftest() -> Any:
    """This folder's conftest, whose helpers make records."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("toys", Path(__file__).with_name("conftest.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOYS = conftest()


def clerkflow(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The command line, as a user runs it."""
    line = [sys.executable, "-m", "flows", *words]
    return subprocess.run(line, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=240)


def test_a_process_is_trained_published_used_watched_and_trained_again(toy: Path, server: str) -> None:
    from flows.monitor import monitor
    from flows.score import score
    from flows.train import train

    assert train("toy").passed
    store = open_store()
    first = champion_of(store, "toy")
    assert first is not None

    known = [{"id": row["id"], "text": row["text"]} for row in TOYS.tickets(120, 2)]
    batch = score("toy", str(TOYS.write_rows(toy / "new.jsonl", known)), "csv")[0]
    assert (batch.facts["rows"], batch.facts["done"], batch.facts["dead"]) == (120, 120, 0)
    assert not monitor("toy").facts["drifted"]

    strange = [{"id": f"s{n}", "text": "completely other words about leave and holidays and salary " * 3} for n in range(120)]
    score("toy", str(TOYS.write_rows(toy / "strange.jsonl", strange)))
    arrived = [row | {"text": f"{row['text']} leave holidays"} for row in TOYS.tickets(120, 3)]
    store.upload(TOYS.write_rows(toy / "arrived.jsonl", arrived), "toy/inbox/arrived.jsonl")
    assert monitor("toy").facts["drifted"]
    assert len(versions_of(store, "toy")) == 2
    second = champion_of(store, "toy")
    assert second is not None
    assert (second.version != first.version, second.previous) == (True, first.version)


def test_a_file_that_the_champion_cannot_take_is_told_when_the_others_are_scored(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.score import score

    publish_tiny(tiny_process(), tmp_path / "version")
    monkeypatch.setenv("CLERKFLOW_PROCESSES", str(tmp_path))
    declared = tiny_process().model_dump(mode="json") | {"sample": {"prompt": "{body}"}}
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "process.yaml").write_text(yaml.safe_dump(declared), encoding="utf-8")
    store = open_store()
    store.write("memory/inbox/1.jsonl", b'{"id": "a", "body": "card"}\n')
    store.write("memory/inbox/2.jsonl", b'{"id": "a", "body": "card", "text": "card"}\n')
    with pytest.raises(ValueError, match=r"memory/inbox/1\.jsonl: no value in the prompt's columns text"):
        score("memory")
    batches = [json.loads(store.read(info.key)[0]) for info in store.list("memory/batches/") if info.key.endswith("/manifest.json")]
    assert [batch["source"] for batch in batches] == ["memory/inbox/2.jsonl"]
    runs = [json.loads(store.read(info.key)[0]) for info in store.list("memory/runs/") if info.key.endswith("/run.json")]
    assert runs[-1]["outcome"] == "1 batches, 1 failed"


def test_the_same_life_goes_on_in_a_bucket(toy: Path, server: str, bucket: MinioStore) -> None:
    from flows.score import score
    from flows.train import train

    assert train("toy").passed
    bucket.write("toy/inbox/new.csv", b"id,text\nn-1,parcel ba dei\nn-2,\n")
    batch = score("toy")[0]
    assert (batch.facts["rows"], batch.facts["done"], batch.facts["dead"]) == (2, 1, 1)
    assert score("toy") == []
    keys = {info.key.split("/")[1] for info in bucket.list("toy/")}
    assert keys == {"arrivals", "batches", "inbox", "models", "runs", "stages"}


def test_a_refused_model_is_never_published_and_the_command_says_why(toy: Path, server: str) -> None:
    answer = clerkflow("train", "toy", "--set", "gate=[{metric: accuracy, at_least: 1.01}]")
    assert answer.returncode == 1, answer.stderr
    assert "refused" in answer.stdout
    assert "accuracy at least 1.01" in answer.stdout
    assert champion_of(open_store(), "toy") is None
    assert versions_of(open_store(), "toy") == []


def test_an_unchanged_process_is_trained_once_also_where_a_better_model_is_asked_for(toy: Path, server: str) -> None:
    """Nothing is better than itself: the champion trained again meets the one it met before."""
    from flows.train import train

    rules = {"gate": [{"metric": "accuracy", "above_champion_at_least": 0.01}]}
    assert train("toy", rules).passed
    assert train("toy", rules).passed
    store = open_store()
    alias = champion_of(store, "toy")
    assert alias and len(alias.history) == 1
    stories = [json.loads(store.read(info.key)[0]) for info in store.list("toy/runs/") if info.key.endswith("stages/finetuning.json")]
    assert [story["reused"] for story in stories] == [False, True]
    assert len(versions_of(store, "toy")) == 1


LONGER = {"finetuning": {"num_train_epochs": 40.0}}


def killed(store: Store, moment: float) -> None:
    """Start `clerkflow train toy`, and kill it some seconds after its run has begun."""
    line = [sys.executable, "-m", "flows", "train", "toy", "--set", "finetuning.num_train_epochs=40.0"]
    child = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    before = runs_begun(store)
    for _ in range(300):
        if child.poll() is not None or runs_begun(store) > before:
            break
        time.sleep(0.2)
    time.sleep(moment)
    child.send_signal(signal.SIGKILL)
    child.wait(20)


def runs_begun(store: Store) -> int:
    return len({info.key.split("/")[2] for info in store.list("toy/runs/")})


def test_a_run_killed_at_two_moments_leaves_no_half_model_and_ends_the_same_when_started_again(
    toy: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started again, it publishes what an undisturbed run publishes elsewhere."""
    from flows.train import train

    store = open_store()
    for moment in (1.0, 4.0):
        killed(store, moment)
        for manifest in versions_of(store, "toy"):
            assert all(store.stat(piece.key) for _, piece, _ in manifest.pieces())
    assert train("toy", LONGER).passed
    resumed = champion_of(store, "toy")
    monkeypatch.setenv("CLERKFLOW_STORE", str(toy / "undisturbed"))
    assert train("toy", LONGER).passed
    alone = champion_of(open_store(), "toy")
    assert resumed and alone
    assert resumed.version == alone.version


def test_mistakes_are_told_all_at_once_without_a_traceback(toy: Path) -> None:
    file = toy / "process.yaml"
    declared = yaml.safe_load(file.read_text(encoding="utf-8"))
    declared |= {"min_valid_shar": 0.9, "gate": []}
    file.write_text(yaml.safe_dump(declared), encoding="utf-8")
    answer = clerkflow("check", "toy")
    assert answer.returncode == 2
    assert "min_valid_shar: unknown key" in answer.stderr
    assert "gate" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_what_cannot_be_asked_is_told_with_status_two(toy: Path) -> None:
    for words in (
        ["train", "nothing"],
        ["score", "toy", "--format", "xml"],
        ["train", "toy", "--set", "learning_rate"],
        ["check", "toy", "--set", "gate=["],
    ):
        answer = clerkflow(*words)
        assert (answer.returncode, "Traceback" in answer.stderr) == (2, False), words
