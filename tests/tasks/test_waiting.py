"""What waits for people: in order, once, as it was proposed last, and not in memory."""

from pathlib import Path
from typing import Any

import pytest

from infra.store import LocalStore, Store
from tasks import waiting as waiting_module
from tasks.waiting import PAGE, Item, View, Waiting
from tests.flows.test_review import put_batch, tickets

NOBODY: frozenset[str] = frozenset()


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return LocalStore(tmp_path / "store")


def fresh(store: Store, done: frozenset[str] = NOBODY) -> Waiting:
    waiting = Waiting(store, "tickets")
    waiting.refresh(done)
    return waiting


def texts(waiting: Waiting) -> list[str]:
    return [item.proposed.inputs["text"] for item in waiting]


def test_more_than_a_page_comes_in_order_and_any_of_it_is_found(store: Store) -> None:
    put_batch(store, tickets(*(f"old {number}" for number in range(PAGE))))
    put_batch(
        store, [{"record_id": f"s{number}", "inputs": {"text": f"new {number}"}, "output": "billing"} for number in range(PAGE)], "b2"
    )
    waiting = fresh(store)
    assert texts(waiting) == [*(f"old {number}" for number in range(PAGE)), *(f"new {number}" for number in range(PAGE))]
    assert (len(waiting), waiting.place(waiting[PAGE + 7].id), waiting[-1].batch) == (2 * PAGE, PAGE + 7, "b2")
    assert waiting[2:4] == list(waiting)[2:4]
    for place in (2 * PAGE, -2 * PAGE - 1):
        with pytest.raises(IndexError):
            waiting[place]


def test_what_is_done_does_not_wait_and_may_wait_again(local: Store) -> None:
    put_batch(local, tickets("one", "two"))
    waiting = fresh(local)
    first, second = waiting
    waiting.refresh(frozenset({first.id, "of another process"}))
    assert (list(waiting), waiting.place(first.id), waiting.known(first.id)) == ([second], None, first)
    put_batch(local, tickets("one", "two", "three"), "b2")  # a batch that comes later asks nobody again
    waiting.refresh(frozenset({first.id}))
    assert texts(waiting) == ["two", "three"]
    waiting.refresh(NOBODY)
    assert texts(waiting) == ["one", "two", "three"]


def test_a_proposal_of_a_batch_that_was_tidied_away_is_gone_with_it(local: Store) -> None:
    put_batch(local, tickets("one"))
    put_batch(local, [{"inputs": {"text": "one"}, "output": "shipping"}, *tickets("two")], "b2")
    waiting = fresh(local)
    assert [(item.batch, item.proposed.output) for item in waiting] == [("b2", "shipping"), ("b2", "billing")]
    local.delete("tickets/batches/b2/manifest.json")
    waiting.refresh(NOBODY)
    assert [(item.batch, item.proposed.output) for item in waiting] == [("b1", "billing")]


def test_an_older_batch_that_is_found_later_proposes_nothing_newer(local: Store) -> None:
    put_batch(local, [{"inputs": {"text": "one"}, "output": "shipping"}], "b2")
    waiting = fresh(local)
    put_batch(local, tickets("one"), "b1")
    waiting.refresh(NOBODY)
    assert [item.proposed.output for item in waiting] == ["shipping"]
    put_batch(local, tickets("zero", "one"), "b0")  # and is where it stood first
    waiting.refresh(NOBODY)
    assert [(item.proposed.inputs["text"], item.proposed.output) for item in waiting] == [
        ("zero", "billing"),
        ("one", "billing"),
        ("one", "shipping"),
    ]


@pytest.mark.parametrize("damage", [lambda rows: rows[:-5], lambda rows: rows.replace(b'"confidence"', b'"sure"'), lambda _: None])
def test_a_damaged_batch_is_left_out_as_a_whole_and_told(local: Store, caplog: pytest.LogCaptureFixture, damage: Any) -> None:
    put_batch(local, tickets("one", "two"))
    put_batch(local, tickets("three"), "b2")
    key = "tickets/batches/b1/review.jsonl"
    whole = local.read(key)[0]
    damaged = damage(whole)
    local.delete(key) if damaged is None else local.write(key, damaged)
    waiting = fresh(local)
    waiting.refresh(NOBODY)
    assert texts(waiting) == ["three"]
    assert caplog.text.count("tickets/batches/b1/ is left out") == 1 and "delete it" in caplog.text
    local.write(key, whole)
    waiting.refresh(NOBODY)
    assert texts(waiting) == ["one", "two", "three"]


@pytest.mark.parametrize("manifest", ["[]", "null", '"x"', '{"review": 2, "finished": null}', '{"review": 2'])
def test_a_manifest_that_is_none_stops_nobody(local: Store, manifest: str) -> None:
    put_batch(local, tickets("one", "two"))
    put_batch(local, tickets("three"), "b2")
    local.write("tickets/batches/b1/manifest.json", manifest.encode())
    assert texts(fresh(local))[-1] == "three"


def test_a_store_that_fails_midway_leaves_nothing_half_taken(local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put_batch(local, tickets("one", "two"))
    put_batch(local, [{"inputs": {"text": "three"}, "output": "billing", "reason": "audit"}], "b2")
    waiting, copy = Waiting(local, "tickets"), waiting_module.copy_to

    def fail(store: Store, key: str, path: Path) -> str:
        if "b2" in key:
            raise ConnectionError("away")
        return copy(store, key, path)

    monkeypatch.setattr(waiting_module, "copy_to", fail)
    with pytest.raises(ConnectionError):
        waiting.refresh(NOBODY)
    assert texts(waiting) == ["one", "two"]
    monkeypatch.undo()
    waiting.refresh(NOBODY)
    assert texts(waiting) == ["one", "two", "three"]


def test_a_view_is_one_moment(local: Store) -> None:
    put_batch(local, tickets("one", "two", "three"))
    waiting = fresh(local)
    one, two, three = (item.id for item in waiting)
    seen = waiting.view(two)
    assert (seen.count, seen.place, seen.item, seen.first, seen.before, seen.after) == (3, 1, waiting[1], one, one, three)
    assert [waiting.view(id).following for id in (one, two, three, "")] == [two, three, one, one]
    waiting.refresh(frozenset({one, three}))
    assert (waiting.view(two).following, waiting.view(one).item, waiting.view(one).following) == ("", None, two)
    assert (waiting.view(two).before, waiting.view(two).after) == ("", "")
    waiting.refresh(frozenset({one, two, three}))
    assert waiting.view("") == View(0, "")


def test_a_record_that_waits_is_told_apart_by_its_content(local: Store) -> None:
    put_batch(local, [{"record_id": "r", "inputs": {"text": text}, "output": "billing"} for text in ("one", "one", "two")])
    found: list[Item] = list(fresh(local))
    assert [item.proposed.inputs["text"] for item in found] == ["one", "two"]


def test_a_full_disk_is_told_and_what_waits_is_read_when_there_is_room(local: Store) -> None:
    put_batch(local, tickets("one"))
    waiting = fresh(local)
    put_batch(local, [{"inputs": {"text": "much " * 100_000}, "output": "billing"}], "b2")
    (pages,) = waiting._rows.execute("PRAGMA page_count").fetchone()
    waiting._rows.execute(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(OSError, match="disk is full; make room"):
        waiting.refresh(NOBODY)
    assert texts(waiting) == ["one"]
    waiting._rows.execute("PRAGMA max_page_count = 1000000")
    waiting.refresh(NOBODY)
    assert len(waiting) == 2
