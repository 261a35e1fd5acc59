"""Reviewed records start a training once there are enough, once, and not for ever when it fails."""

import json
from pathlib import Path

import pytest

from benchmarks.memory import tiny_process
from infra.store import open_store
from tasks.arrivals import begin_training, due, learned_from, survey
from tasks.artifacts import store_folder
from tasks.ingestion import ingest
from tasks.lessons import lessons_of, to_learn
from tasks.process import Process
from tasks.reviewing import Queue
from tasks.reviews import review_key
from tasks.runs import Run, begin
from tests.flows.test_review import process_of, put_batch, tickets


@pytest.fixture
def reviewed(tmp_path: Path) -> Process:
    """A process of whose reviews three are for training, one measures, and one is a rejection."""
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "1", "text": "parcel", "queue": "shipping"}) + "\n")
    source = {"source": str(tmp_path / "a.jsonl"), "columns": ["text"]}
    process = process_of(arrivals={"min_new_records": 3, "max_attempts": 2}, review={"gold": 1}, records=source)
    process._folder = tmp_path
    put_batch(open_store(), tickets("one", "two", "three", "four", "five"))
    say(process)
    return process


def say(process: Process) -> None:
    """Accept all that waits but the last one, which is rejected."""
    queue = Queue(open_store(), process)
    *accepted, last = queue.waiting()
    for item in accepted:
        queue.decide(item, "accepted", "Ann")
    queue.decide(last, "rejected", "Ann", reason="spam")


def test_they_count_as_new_until_a_training_that_came_to_a_verdict_has_read_them(reviewed: Process) -> None:
    store = open_store()
    assert to_learn(store, reviewed) == 3
    assert due(store, reviewed, survey(store, reviewed)) == {}
    assert due(store, reviewed, survey(store, reviewed), reviewed=3) == {"train": []}
    run = begin(reviewed, "train")
    raw = ingest.fn(run)
    assert to_learn(store, reviewed) == 3
    learned_from(raw, run)
    assert to_learn(store, reviewed) == 0
    put_batch(store, tickets("six", "seven"), "b2")
    say(reviewed)
    assert to_learn(store, reviewed) == 1
    learned_from(ingest.fn(run), run)
    assert to_learn(store, reviewed) == 0


def test_trainings_that_fail_end_after_so_many_and_another_word_is_another_chance(reviewed: Process) -> None:
    store, run = open_store(), Run(id="now", process=reviewed, flow="train")
    for left in (3, 0):
        begin_training(run)
        assert to_learn(store, reviewed) == left
    put_batch(store, tickets("six", "seven"), "b2")
    say(reviewed)
    assert to_learn(store, reviewed) == 4
    begin_training(run)
    assert lessons_of(store, reviewed.name).attempts == 1


def test_what_is_no_word_is_left_alone_and_damaged_notes_count_as_none(reviewed: Process, tmp_path: Path) -> None:
    store = open_store()
    begin_training(Run(id="now", process=tiny_process(), flow="train"))
    assert not list(store.list("memory/"))
    store.write("tickets/reviews/.DS_Store", b"x")
    store.write("tickets/lessons.json", b"{")
    assert to_learn(store, reviewed) == 3
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "report.json").write_text(json.dumps({"files": []}))  # as it was before reviews were noted
    learned_from(store_folder(store, tmp_path / "raw", "tickets/runs/now/raw"), Run(id="now", process=reviewed, flow="train"))
    assert to_learn(store, reviewed) == 3


def test_a_damaged_word_starts_no_training_and_keeps_nothing_else_from_starting(
    reviewed: Process, caplog: pytest.LogCaptureFixture
) -> None:
    from flows.reconcile import reviewed_in

    store = open_store()
    store.write(review_key("tickets", "0" * 32), b"{")
    with pytest.raises(ValueError, match="is damaged"):
        to_learn(store, reviewed)
    assert reviewed_in(store, reviewed) == 0
    assert "start no training" in caplog.text
