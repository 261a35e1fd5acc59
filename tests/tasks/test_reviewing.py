"""Words of reviewers: written once, and what becomes of the records."""

import json
from pathlib import Path
from typing import Any

import pytest

from infra.store import Conflict, LocalStore, Store
from tasks.ingestion import GOLD, reviewed_sources
from tasks.lessons import to_learn
from tasks.preparation import write_samples
from tasks.process import Process
from tasks.readers import Reader
from tasks.records import Record
from tasks.reviewing import Queue, checked_output, write_labelled
from tasks.reviews import item_id, review_key
from tests.flows.test_review import FORM, process_of, put_batch, tickets


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return LocalStore(tmp_path / "store")


def decide_all(queue: Queue, word: Any = "accepted", **more: Any) -> None:
    for item in queue.waiting():
        queue.decide(item, word, "Ann", **more)


def test_a_record_is_looked_at_once_whichever_batches_it_stands_in(local: Store) -> None:
    put_batch(local, tickets("one", "two"), "b1")
    put_batch(local, [{"inputs": {"text": "one"}, "output": "shipping"}], "b2")
    queue = Queue(local, process_of())
    first, second = queue.waiting()
    assert (first.proposed.output, first.batch, second.proposed.output) == ("shipping", "b2", "billing")
    queue.decide(first, "accepted", "Ann")
    assert [item.id for item in queue.waiting()] == [second.id]


def test_a_word_is_written_once_in_each_kind_of_store(store: Store) -> None:
    put_batch(store, tickets("one"))
    queue, other = Queue(store, process_of()), Queue(store, process_of())
    (item,) = other.waiting()
    queue.decide(item, "corrected", "Ann", "shipping")
    with pytest.raises(Conflict, match="corrected by Ann"):
        other.decide(item, "rejected", "Bo", reason="late")
    assert [word.output for word in other.said().words] == ["shipping"]
    assert store.stat(review_key("tickets", item_id("r1", {"text": "one"}))) is not None


def test_a_word_whose_label_is_gone_is_void_and_its_record_waits_again(local: Store, tmp_path: Path) -> None:
    put_batch(local, tickets("one", "two"))
    queue = Queue(local, process_of())
    first, _ = queue.waiting()
    queue.decide(first, "corrected", "Ann", "shipping")
    queue.decide(queue.waiting()[0], "rejected", "Ann", reason="no ticket")
    process = process_of(output={"label": "queue", "labels": ["billing", "delivery"]})
    later = Queue(local, process)
    (again,) = later.waiting()
    assert again.id == first.id
    later.decide(again, "corrected", "Bo", "delivery")
    assert not later.waiting()
    assert [(word.id, word.output, word.side) for word in later.said().standing().values() if word.output] == [
        (f"{first.id}.2", "delivery", "gold")
    ]
    with pytest.raises(Conflict, match="corrected by Bo"):
        later.decide(again, "accepted", "Cy")
    (row,) = write_labelled(local, process, tmp_path)["test"].read_text().splitlines()
    assert json.loads(row)["queue"] == "delivery"


def test_a_proposal_that_is_no_longer_as_declared_cannot_be_accepted(local: Store) -> None:
    put_batch(local, [{"inputs": {"text": "one"}, "output": "shipping"}])
    queue = Queue(local, process_of(output={"label": "queue", "labels": ["billing", "delivery"]}))
    with pytest.raises(ValueError, match=r"correct it: the answer is not a declared label"):
        queue.decide(queue.waiting()[0], "accepted", "Ann")
    assert not queue.said().words


def test_a_word_that_came_while_a_page_was_open_stands_whatever_declaration_the_page_knows(local: Store) -> None:
    put_batch(local, tickets("one"))
    older = Queue(local, process_of(output={"label": "queue", "labels": ["billing", "shipping"]}))
    newer = Queue(local, process_of(output={"label": "queue", "labels": ["billing", "delivery"]}))
    (item,) = older.waiting()
    newer.decide(item, "corrected", "Bo", "delivery")
    assert not older.waiting()
    with pytest.raises(Conflict, match="corrected by Bo"):
        older.decide(item, "accepted", "Ann")
    assert [word.output for word in newer.said().words] == ["delivery"]


def test_void_words_are_neither_learned_from_nor_counted_nor_part_of_the_quota_of_gold(local: Store, tmp_path: Path) -> None:
    put_batch(local, tickets("one", "two", "three"))
    queue = Queue(local, process_of(review={"gold": 1}))
    decide_all(queue, "corrected", output="shipping")
    assert to_learn(local, queue.process) == 2
    process = process_of(output={"label": "queue", "labels": ["billing", "delivery"]}, review={"gold": 1})
    assert (write_labelled(local, process, tmp_path), to_learn(local, process)) == ({}, 0)
    later = Queue(local, process)
    assert len(later.waiting()) == 3
    put_batch(local, tickets("four"), "b2")
    later.decide(later.waiting()[-1], "accepted", "Bo")
    assert later.said().standing()[item_id("r1", {"text": "four"})].side == "gold"
    decide_all(later, "corrected", output="delivery")
    assert sorted(word.side for word in later.holding() if word.side) == ["gold", "gold", "train", "train"]  # a text stays where it went
    assert to_learn(local, process) == 2


def test_a_word_of_another_kind_of_output_or_with_fields_that_are_gone_does_no_harm(local: Store, tmp_path: Path) -> None:
    put_batch(local, [{"inputs": {"text": "one"}, "output": {"item": "pen", "count": 2, "unit": "box"}}])
    decide_all(Queue(local, process_of(FORM)), "corrected", output={"item": "pens", "count": 3, "unit": "box"})
    fewer = process_of(FORM | {"fields": {"item": {}}})
    (line,) = write_labelled(local, fewer, tmp_path)["test"].read_text().splitlines()
    assert json.loads(line) == {"text": "one", "id": "r1", "form.item": "pens"}
    assert not Queue(local, fewer).waiting()
    assert write_labelled(local, process_of(), tmp_path / "label") == {}


def test_a_damaged_word_stops_nobody_but_the_training_that_would_miss_it(local: Store, tmp_path: Path, caplog: Any) -> None:
    put_batch(local, tickets("one", "two"))
    queue = Queue(local, process_of())
    first, second = queue.waiting()
    local.write(review_key("tickets", first.id), b"{}")
    assert [item.id for item in queue.waiting()] == [second.id]
    assert "is damaged" in caplog.text
    queue.decide(second, "accepted", "Ann")
    with pytest.raises(ValueError, match="is damaged"):
        queue.decide(first, "accepted", "Ann")
    assert [word.id for word in queue.holding()] == [second.id]
    with pytest.raises(ValueError, match="is damaged"):
        write_labelled(local, queue.process, tmp_path)


def test_labels_in_a_column_of_numbers_are_texts(local: Store, tmp_path: Path) -> None:
    numbered = process_of({"label": "stars"}, records={"source": "a.jsonl", "columns": {"text": "string", "stars": "integer"}})
    put_batch(local, [{"inputs": {"text": "one"}, "output": "4"}, {"inputs": {"text": "two"}, "output": "4"}])
    queue = Queue(local, numbered)
    first, second = queue.waiting()
    queue.decide(first, "corrected", "Ann", "5")
    queue.decide(second, "accepted", "Ann")
    assert ([word.output for word in queue.holding()], list(queue.waiting())) == (["5", "4"], [])
    rows = write_labelled(local, numbered, tmp_path)["test"].read_text().splitlines()
    assert [json.loads(row)["stars"] for row in rows] == ["5", "4"]


def test_a_word_is_void_when_its_fields_are_renamed_or_another_kind_of_output_is_asked_for(local: Store) -> None:
    put_batch(local, [{"inputs": {"text": "one"}, "output": {"item": "pen"}}])
    one = {"fields": {"item": {"optional": True}}, "within": "form"}
    decide_all(Queue(local, process_of(one)))
    assert Queue(local, process_of({"fields": {"thing": {"optional": True}}, "within": "form"})).holding() == []
    put_batch(local, tickets("two"), "b2")
    labels = Queue(local, process_of())
    labels.decide(labels.waiting()[-1], "accepted", "Ann")
    texts = Queue(local, process_of({"text": "queue"}))
    assert (texts.holding(), len(texts.waiting())) == ([], 2)


def test_a_label_that_is_spelled_otherwise_today_is_the_same_answer(local: Store, tmp_path: Path) -> None:
    put_batch(local, tickets("one"))
    decide_all(Queue(local, process_of()))
    capital = process_of({"label": "queue", "labels": ["Billing", "Shipping"]})
    (row,) = write_labelled(local, capital, tmp_path)["test"].read_text().splitlines()
    assert (json.loads(row)["queue"], list(Queue(local, capital).waiting())) == ("Billing", [])


def test_what_a_model_may_write_can_be_accepted_as_it_stands(local: Store) -> None:
    form = {"fields": {"item": {"optional": False}, "mark": {"pattern": "^ "}}, "within": "form"}
    put_batch(local, [{"inputs": {"text": "one"}, "output": {"item": "", "mark": " Bob"}}])
    queue = Queue(local, process_of(form))
    decide_all(queue)
    assert [word.output for word in queue.holding()] == [{"item": "", "mark": " Bob"}]


def test_gold_comes_first_up_to_its_quota_and_equal_texts_stay_together(local: Store) -> None:
    put_batch(local, tickets("one", "two", "ONE", "three", "four"))
    process = process_of(review={"gold": 2})
    queue = Queue(local, process)
    decide_all(queue)
    assert [(word.inputs["text"], word.side) for word in queue.said().words] == [
        ("one", "gold"),
        ("two", "gold"),
        ("ONE", "gold"),
        ("three", "train"),
        ("four", "train"),
    ]


def test_what_was_reviewed_is_read_with_its_split_and_measured_or_trained_on_but_never_both(local: Store, tmp_path: Path) -> None:
    put_batch(local, tickets("gold one", "later two", "later three"))
    process = process_of(review={"gold": 1}, sample={"prompt": "{text}", "vocabulary_size": 300, "near_duplicates": None})
    queue = Queue(local, process)
    decide_all(queue, "corrected", output="shipping")
    records = [
        row
        for source in reviewed_sources(process, local, tmp_path / "reviewed")
        for row in Reader(source.path, source.name, process, source.split)
        if isinstance(row, Record)
    ]
    assert [(row.values, row.split, row.file == GOLD) for row in records] == [
        ({"text": "gold one", "queue": "shipping"}, "test", True),
        ({"text": "later two", "queue": "shipping"}, "train", False),
        ({"text": "later three", "queue": "shipping"}, "train", False),
    ]
    own = [
        Record(f"o{n}", {"text": f"text {n}", "queue": "billing"}, "a.jsonl", n, (), ("", "validation", "test")[n % 3]) for n in range(9)
    ]
    twin = Record("twin", {"text": "GOLD  one", "queue": "billing"}, "a.jsonl", 10, (), "train")
    (tmp_path / "working").mkdir()
    report = write_samples(process, [twin, *own, *records], tmp_path / "samples", tmp_path / "working")
    from datasets import load_from_disk

    sides = {name: load_from_disk(str(tmp_path / "samples" / name))["record_id"] for name in ("train", "validation", "test")}
    assert records[0].id in sides["test"]
    assert {records[1].id, records[2].id} <= {*sides["train"]}
    assert "twin" not in {*sides["train"], *sides["validation"], *sides["test"]}
    assert report["dropped"]["leaks"] == 1


def test_a_rejected_record_is_no_labelled_one_and_needs_a_reason(local: Store, tmp_path: Path) -> None:
    put_batch(local, tickets("one"))
    queue = Queue(local, process_of())
    (item,) = queue.waiting()
    with pytest.raises(ValueError, match="needs a reason"):
        queue.decide(item, "rejected", "Ann")
    with pytest.raises(ValueError, match="needs a name"):
        queue.decide(item, "accepted", " ")
    queue.decide(item, "rejected", "Ann", reason="spam")
    assert reviewed_sources(process_of(), local, tmp_path / "reviewed") == []


@pytest.mark.parametrize(
    ("output", "typed", "right"),
    [
        (None, " Billing ", "billing"),
        (FORM, {"item": "pen", "count": "１,200", "unit": "BOX"}, {"item": "pen", "count": 1200, "unit": "box"}),
        (FORM, {"item": "pen", "count": "2", "unit": ""}, {"item": "pen", "count": 2}),
    ],
)
def test_a_correction_is_mended_as_a_record_is(output: dict[str, Any] | None, typed: Any, right: Any) -> None:
    assert checked_output(process_of(output), typed) == right


@pytest.mark.parametrize(
    ("output", "typed", "told"),
    [
        (None, "legal", "queue is not as declared"),
        (None, "", "queue is missing"),
        (FORM, {"item": "", "count": "many"}, "item is missing; count is not as declared: integer"),
    ],
)
def test_a_correction_that_is_not_as_declared_is_refused(output: dict[str, Any] | None, typed: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        checked_output(process_of(output), typed)


def test_corrected_fields_come_back_under_their_paths(local: Store, tmp_path: Path) -> None:
    process: Process = process_of(FORM)
    put_batch(local, [{"inputs": {"text": "two pens"}, "output": {"item": "pens", "count": 3}}])
    decide_all(Queue(local, process), "corrected", output={"item": "pens", "count": "2"})
    (source,) = reviewed_sources(process, local, tmp_path / "reviewed")
    assert json.loads(source.path.read_text()) == {"text": "two pens", "id": "r1", "form.item": "pens", "form.count": 2}
    (row,) = Reader(source.path, source.name, process, source.split)
    assert isinstance(row, Record)
    assert row.values == {"text": "two pens", "form.item": "pens", "form.count": 2}


def test_a_word_is_read_once_by_a_program_and_is_asked_for_again_when_it_is_deleted(local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    process = process_of()
    put_batch(local, tickets("one", "two"))
    decide_all(Queue(local, process))
    assert len(Queue(local, process).said().words) == 2
    monkeypatch.setattr("tasks.reviewing.read_word", lambda *_: pytest.fail("it was read before"))
    (first, _) = Queue(local, process).said().words
    local.delete(review_key("tickets", first.id))
    assert [item.id for item in Queue(local, process).waiting()] == [first.id]
    (again,) = Queue(local, process).waiting()
    monkeypatch.undo()
    Queue(local, process).decide(again, "corrected", "Bo", "shipping")
    assert {word.output for word in Queue(local, process).said().words} == {"billing", "shipping"}
