"""The life of one model through the real flows, a real Prefect server and a real store."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.memory import publish_tiny, tiny_process
from flows import __main__ as line
from infra.bucket import MinioStore
from infra.store import INCOMING, Store, open_store
from tasks.aliases import champion_of
from tasks.claims import flow_key
from tasks.claims import read as read_claim
from tasks.registry import versions_of
from tasks.runs import STAGES as ALL_STAGES
from tasks.runs import newest, record_of
from tasks.stories import stories_of
from tasks.verification import verify_version
from tests.flows.conftest import Command, clerkflow, tickets, write_rows

ROOT = Path(__file__).resolve().parents[2]
STAGES = [stage for stage in ALL_STAGES if stage != "compression"]  # of a process that declares none


def test_a_process_is_trained_published_used_watched_and_trained_again(toy: Path, server: str) -> None:
    from flows.monitor import monitor
    from flows.score import score
    from flows.train import train

    assert train("toy").passed
    store = open_store()
    first = champion_of(store, "toy")
    assert first is not None

    known = [{"id": row["id"], "text": row["text"]} for row in tickets(120, 2)]
    batch = score("toy", str(write_rows(toy / "new.jsonl", known)), "csv")[0]
    assert (batch.facts["rows"], batch.facts["done"], batch.facts["dead"]) == (120, 120, 0)
    assert not monitor("toy").facts["drifted"]

    strange = [{"id": f"s{n}", "text": "completely other words about leave and holidays and salary " * 3} for n in range(120)]
    score("toy", str(write_rows(toy / "strange.jsonl", strange)), overrides={"batch": {"max_dead": 1}})  # too long, all of them
    arrived = [row | {"text": f"{row['text']} leave holidays"} for row in tickets(120, 3)]
    store.upload(write_rows(toy / "arrived.jsonl", arrived), "toy/inbox/arrived.jsonl")
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

    assert train("toy", QUICK).passed
    version = versions_of(bucket, "toy")[0].version
    manifest, findings = verify_version(bucket, "toy", version)
    assert set(manifest.data) == {"ingestion", "validation", "preparation", "finetuning", "evaluation"}
    assert not [finding for finding in findings if finding.fault]
    bucket.write("toy/inbox/new.csv", b"id,text\nn-1,parcel ba dei\nn-2,\n")
    batch = score("toy")[0]
    assert (batch.facts["rows"], batch.facts["done"], batch.facts["dead"]) == (2, 1, 1)
    assert score("toy") == []
    keys = {info.key.split("/")[1] for info in bucket.list("toy/")}
    assert keys == {"arrivals", "batches", "claims", "inbox", "models", "runs", "stages"}


def test_a_refused_model_is_never_published_and_the_command_says_why(toy: Path, server: str) -> None:
    answer = clerkflow("train", "toy", "--set", "gate=[{metric: accuracy, at_least: 1.01}]")
    assert answer.returncode == 1, answer.stderr
    assert "refused" in answer.stdout
    assert "accuracy at least 1.01" in answer.stdout
    assert champion_of(open_store(), "toy") is None
    assert versions_of(open_store(), "toy") == []


def test_an_unchanged_process_is_trained_once_and_each_run_says_why_it_did_what_it_did(
    toy: Path, server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is better than itself, so the champion trained again meets the one it met before."""
    from flows.train import train

    rules = {"gate": [{"metric": "accuracy", "above_champion_at_least": 0.01}]}

    def told() -> dict[str, list[str]]:
        """What the newest run did at each stage, and why, as it is kept."""
        found = stories_of(store, f"toy/runs/{newest(store, 'toy', 'train')}")
        return {stage: [("reused" if story["reused"] else "done"), *story["why"]] for stage, story in found.items() if stage != "gate"}

    store = open_store()
    assert train("toy", rules).passed
    first = newest(store, "toy", "train")
    assert set(map(tuple, told().values())) == {("done", "it was never done before")}
    assert train("toy", rules).passed
    assert set(map(tuple, told().values())) == {("reused", f"nothing changed since run {first}")}
    alias = champion_of(store, "toy")
    assert alias and len(alias.history) == 1
    assert len(versions_of(store, "toy")) == 1

    train("toy", from_stage="evaluation", dry_run=True)
    assert [told()[stage] for stage in ("finetuning", "evaluation")] == [
        ["reused", f"nothing changed since run {first}"],
        ["done", "asked for: from_stage"],
    ]
    with (toy / "sample.jsonl").open("a", encoding="utf-8") as rows:
        rows.write('{"id": "one more", "text": "invoice ba dei secret-7171", "queue": "billing"}\n')
    train("toy", QUICK, dry_run=True)
    assert told()["ingestion"] == ["done", "data sample.jsonl changed"]
    assert told()["validation"] == ["done", "input raw changed"]
    assert told()["finetuning"] == ["done", "setting finetuning.num_train_epochs changed", "input samples changed"]

    monkeypatch.setattr("sys.argv", ["clerkflow", "why", "toy"])
    with pytest.raises(SystemExit) as end:
        line.main()
    shown = " ".join(capsys.readouterr().out.split())
    assert not end.value.code
    assert "data sample.jsonl changed" in shown
    assert "every run is judged" in shown
    assert "7171" not in shown + json.dumps(stories_of(store, f"toy/runs/{newest(store, 'toy', 'train')}"))


LONGER = {"finetuning": {"num_train_epochs": 20.0}}


def killed_while_it_learns(store: Store) -> str:
    """Start `clerkflow train toy`, kill it when it has left a first checkpoint, and give its run."""
    child = training("--set", "finetuning.num_train_epochs=20.0")
    while not any(store.list("toy/checkpoints/")):
        assert child.poll() is None, child.communicate()[0]
        time.sleep(0.05)
    child.kill()
    child.communicate()
    return str(newest(store, "toy", "train"))


def test_a_killed_run_leaves_no_half_model_and_ends_the_same_when_it_is_asked_for_again(
    toy: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for again, it publishes what an undisturbed run publishes elsewhere; what it had done is found."""
    from flows.train import train

    store = open_store()
    killed = killed_while_it_learns(store)
    assert versions_of(store, "toy") == []
    answer = clerkflow("retry", "toy", killed)
    assert (answer.returncode, f"train was done again, as run {killed} was asked for" in answer.stdout) == (0, True), answer.stderr
    again = str(newest(store, "toy", "train"))
    assert again != killed
    assert record_of(store, "toy", again)["overrides"] == LONGER
    reused = {stage: story["reused"] for stage, story in stories_of(store, f"toy/runs/{again}").items()}
    assert [reused[stage] for stage in STAGES] == [True, True, True, False, False]
    resumed = champion_of(store, "toy")
    monkeypatch.setenv("CLERKFLOW_STORE", str(toy / "undisturbed"))
    assert train("toy", LONGER).passed
    alone = champion_of(open_store(), "toy")
    assert resumed and alone
    assert resumed.version == alone.version


def training(*words: str) -> "subprocess.Popen[str]":
    """A training run of its own process, under way."""
    command = [sys.executable, "-m", "flows", "train", "toy", *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


QUICK = {"finetuning": {"num_train_epochs": 1.0}, "gate": [{"metric": "accuracy", "at_least": 0.0}]}
FORKS = f"""
import os, sys
import great_expectations, torch, transformers, tasks.baselines, tasks.rehearsal
from flows.train import train
for _ in sys.stdin:
    pid = os.fork()
    if not pid:
        train("toy", {QUICK}, dry_run=True)
        os._exit(0)
    print(pid, flush=True)
    os.waitpid(pid, 0)
    print("ended", flush=True)
"""


@contextmanager
def trainings(lease_seconds: int) -> Iterator[Callable[[str, str | None], str]]:
    """Training runs of processes of their own that have imported already; each is killed when it has told of a stage, and gives its id."""
    environment = os.environ | {"CLERKFLOW_LEASE_SECONDS": str(lease_seconds), "PREFECT_LOGGING_LEVEL": "CRITICAL", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-W", "ignore", "-c", FORKS]
    parent = subprocess.Popen(words, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdin and parent.stdout

    def killed_at(stage: str, before: str | None) -> str:
        parent.stdin.write("\n")  # type: ignore[union-attr]
        parent.stdin.flush()  # type: ignore[union-attr]
        pid = int(parent.stdout.readline())  # type: ignore[union-attr]
        id = until_told(parent, stage, before)
        os.kill(pid, signal.SIGKILL)
        assert parent.stdout.readline() == "ended\n"  # type: ignore[union-attr]
        return id

    try:
        yield killed_at
    finally:
        parent.communicate()


def until_told(child: "subprocess.Popen[str]", stage: str, before: str | None = None) -> str:
    """Wait until a run after `before` has told of a stage, and give its id."""
    store = open_store()
    for _ in range(6000):
        id = newest(store, "toy", "train")
        if id and id != before and store.stat(f"toy/runs/{id}/stages/{stage}.json"):
            return id
        assert child.poll() is None, child.communicate()[0]
        time.sleep(0.05)
    raise AssertionError(f"no {stage} in time")


def test_killed_at_each_boundary_it_goes_on_from_there_and_the_watchdog_finds_the_dead(toy: Path, server: str) -> None:
    from prefect.client.orchestration import get_client

    from flows.train import train
    from flows.watchdog import watchdog

    store, id = open_store(), None
    with trainings(lease_seconds=2) as killed_at:
        for place, stage in enumerate(STAGES):
            id = killed_at(stage, id)
            found = stories_of(store, f"toy/runs/{id}")
            assert [found[each]["reused"] for each in STAGES[: place + 1]] == [True] * place + [False]
    assert train("toy", QUICK, dry_run=True).passed
    last = newest(store, "toy", "train")
    assert all(story["reused"] for stage, story in stories_of(store, f"toy/runs/{last}").items() if stage != "gate")

    time.sleep(4)  # longer than the lease of the last one
    dead = [record_of(store, "toy", name)["asked"]["flow_run"] for name in sorted(ids(store)) if name != last]
    assert len(watchdog("toy")["marked"]) == len(dead) == len(STAGES)
    with get_client(sync_client=True) as client:
        assert {client.read_flow_run(each).state_name for each in dead} == {"Crashed"}
        assert client.read_flow_run(record_of(store, "toy", str(last))["asked"]["flow_run"]).state_name == "Completed"
    assert watchdog("toy") == {"marked": [], "tried again": [], "given up": []}


def ids(store: Any) -> set[str]:
    """Ids of all runs."""
    return {info.key.split("/")[2] for info in store.list("toy/runs/")}


def fall_asleep(child: "subprocess.Popen[str]", store: Any) -> None:
    """Stop a process where it does not hold the lock of the store: whoever sleeps there has all others wait, and that is another story."""
    for _ in range(100):
        child.send_signal(signal.SIGSTOP)
        time.sleep(0.05)
        with (store.root / INCOMING / "lock").open("w") as lock, suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        child.send_signal(signal.SIGCONT)
        time.sleep(0.05)
    raise AssertionError("it held the lock of the store whenever it was stopped")


def test_of_two_trainings_at_once_one_works_and_when_it_falls_asleep_the_next_one_takes_over(toy: Path, server: str) -> None:
    from flows.train import train

    store = open_store()
    sleeper = training("--set", "finetuning.num_train_epochs=13")
    until_told(sleeper, "preparation")
    fall_asleep(sleeper, store)
    try:
        second = clerkflow("train", "toy")
        assert (second.returncode, second.stderr) == (0, "")
        assert "skipped, train-toy-" in second.stdout
        assert "is at work on it since" in second.stdout
        assert len(ids(store)) == 1

        key = flow_key("toy", "train")
        claim, etag = read_claim(store, key)
        assert claim
        store.write(key, claim.model_copy(update={"lease_seconds": 1.0}).as_bytes(), if_match=etag)
        time.sleep(3.5)  # as if it had slept for longer than its lease
        assert train("toy").passed
        alias = champion_of(store, "toy")
    finally:
        sleeper.send_signal(signal.SIGCONT)
    told = sleeper.communicate(timeout=240)[0]
    assert sleeper.returncode == 1
    assert "took it over" in told
    assert "Traceback" not in told
    assert champion_of(store, "toy") == alias
    assert alias and len(alias.history) == 1


def test_mistakes_are_told_all_at_once_without_a_traceback(toy: Path, command: Command) -> None:
    file = toy / "process.yaml"
    declared = yaml.safe_load(file.read_text(encoding="utf-8"))
    declared |= {"min_valid_shar": 0.9, "gate": []}
    file.write_text(yaml.safe_dump(declared), encoding="utf-8")
    status, told = command("check", "toy")
    assert (status, "min_valid_shar: unknown key" in told, "gate" in told) == (2, True, True), told


def test_what_cannot_be_asked_is_told_with_status_two(toy: Path, command: Command) -> None:
    for words in (
        ["train", "nothing"],
        ["score", "toy", "--format", "xml"],
        ["train", "toy", "--set", "learning_rate"],
        ["check", "toy", "--set", "gate=["],
    ):
        assert command(*words)[0] == 2, words
