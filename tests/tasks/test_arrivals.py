"""What arrives in an inbox is done once, whatever events say: real stores, a real published tiny model."""

import io
import json
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from benchmarks.memory import publish_tiny, tiny_process
from infra.store import Conflict, LocalStore, Store, open_store
from tasks.aliases import champion_of
from tasks.arrivals import Survey, begin_training, due, find_batches, learned_from, reconcile, score_arrivals, survey
from tasks.artifacts import store_folder
from tasks.batches import batch_id
from tasks.claims import batch_key, claimed
from tasks.ledger import Arrival, enter, inbox_of, is_settled, move, read_ledger
from tasks.process import Process
from tasks.runs import Run

INBOX = "memory/inbox"


def quick(**arrivals: Any) -> Process:
    """The tiny process, whose files need not rest."""
    return tiny_process().model_copy(update={"arrivals": tiny_process().arrivals.model_copy(update={"settle_seconds": 0} | arrivals)})


@pytest.fixture
def run(store: Store, tmp_path: Path) -> Run:
    """A run of a process with a champion, on each kind of store."""
    publish_tiny(tiny_process(), tmp_path / "version")
    return Run(id="now", process=quick(), flow="score")


def put(key: str, *rows: Any) -> None:
    """Rows as an object of the inbox."""
    open_store().write(f"{INBOX}/{key}", "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode())


def state_of(key: str) -> list[tuple[str, str | None]]:
    """State and kind of every version of an object."""
    arrivals = read_ledger(open_store(), "memory").arrivals.values()
    return sorted((arrival.state, arrival.kind) for arrival in arrivals if arrival.key == f"{INBOX}/{key}")


def score_all(run: Run, arrived: str | None = None) -> tuple[list[str], dict[str, str]]:
    """The sources that a score run scores, in order, and the failures."""
    scored = score_arrivals(find_batches(run, arrived), run, "jsonl")
    return [str(batch.facts["source"]) for batch in scored.batches], scored.failed


def names(found: Survey) -> dict[str, int]:
    return {name: count for name, count in found.counts.items() if count}


def test_every_file_is_told_apart_and_scored_once(run: Run) -> None:
    put("new.jsonl", {"id": "a", "text": "card"})
    put("labelled.jsonl", {"id": "b", "text": "card", "queue": "refund"})
    put("odd.jsonl", {"id": "c", "body": "card"})
    put(".keep")
    put("half.jsonl.part", {"id": "d", "text": "card"})
    assert score_all(run) == ([f"{INBOX}/new.jsonl"], {})
    assert score_all(run) == ([], {})
    assert (state_of("new.jsonl"), state_of("labelled.jsonl")) == ([("processed", "unlabelled")], [("pending", "labelled")])
    assert state_of("odd.jsonl") == [("quarantined", None)]
    assert names(survey(open_store(), run.process)) == {"processed": 1, "quarantined": 1, "pending": 1}
    put("new.jsonl", {"id": "e", "text": "late"})
    assert score_all(run) == ([f"{INBOX}/new.jsonl"], {})
    assert state_of("new.jsonl") == [("processed", "unlabelled")] * 2


def test_a_file_that_another_run_is_at_is_left_to_it_and_that_is_no_attempt(run: Run) -> None:
    put("a.jsonl", {"id": "a", "text": "card"})
    put("b.jsonl", {"id": "b", "text": "card"})
    store, (first, *_) = open_store(), find_batches(run)
    champion = champion_of(store, "memory")
    assert champion
    batch = batch_id(first.sha256, first.key, run.process, champion.version, "jsonl")
    with claimed(store, batch_key("memory", batch), "another"):
        scored = score_arrivals(find_batches(run), run, "jsonl")
        assert [claim.run for claim in scored.left] == ["another"]
        assert [found.facts["source"] for found in scored.batches] == [f"{INBOX}/b.jsonl"]
    waiting = find_batches(run)
    assert [(arrival.key, arrival.attempts) for arrival in waiting] == [(f"{INBOX}/a.jsonl", 0)]


def test_the_file_whose_arrival_started_the_run_is_first(run: Run) -> None:
    for name in "abc":
        put(f"{name}.jsonl", {"id": name, "text": name})
    assert score_all(run, f"{INBOX}/b.jsonl")[0] == [f"{INBOX}/{name}.jsonl" for name in "bac"]


def test_a_batch_whose_run_was_killed_before_it_could_say_so_is_not_made_again(run: Run) -> None:
    from tasks.scoring import score_batch

    put("new.jsonl", {"id": "a", "text": "card"})
    survey(open_store(), run.process)
    score_batch.fn(f"{INBOX}/new.jsonl", run)
    assert find_batches(run) == []
    assert state_of("new.jsonl") == [("processed", "unlabelled")]


def test_without_a_champion_files_wait_and_lose_no_attempt() -> None:
    run = Run(id="now", process=quick(), flow="score")
    assert find_batches(run) == []
    put("new.jsonl", {"id": "a", "text": "card"})
    with pytest.raises(ValueError, match="clerkflow train memory"):
        find_batches(run)
    store = open_store()
    found = survey(store, run.process)
    assert (due(store, run.process, found), [arrival.attempts for arrival in found.here]) == ({}, [0])


def test_a_file_that_fails_keeps_no_other_from_being_scored_and_ends_as_a_dead_letter(tmp_path: Path) -> None:
    publish_tiny(tiny_process(), tmp_path / "version")
    run = Run(id="now", process=quick(max_attempts=2), flow="score")
    put("a.jsonl", {"id": "a", "text": "card"})
    put("b.jsonl", {"id": "b", "text": "card"})
    waiting = find_batches(run)
    (Path(os.environ["CLERKFLOW_STORE"]) / INBOX / "a.jsonl").write_text("")  # it breaks between being looked at and being scored
    scored = score_arrivals(waiting, run, "jsonl")
    batches, failed = scored.batches, scored.failed
    assert ([batch.facts["source"] for batch in batches], list(failed)) == ([f"{INBOX}/b.jsonl"], [f"{INBOX}/a.jsonl"])
    arrival = next(arrival for arrival in read_ledger(open_store(), "memory").arrivals.values() if arrival.key.endswith("a.jsonl"))
    assert (arrival.state, arrival.attempts, "empty" in arrival.reason) == ("pending", 1, True)


def test_what_was_tried_too_often_is_a_dead_letter_unless_a_run_is_at_work_on_it(run: Run) -> None:
    put("a.jsonl", {"id": "a", "text": "card"})
    store = open_store()
    arrival = survey(store, run.process).here[0]
    for _ in range(run.process.arrivals.max_attempts):
        move(store, arrival, lambda now: {"attempts": now.attempts + 1})
    assert names(reconcile(store, run.process, ["score"])) == {"pending": 1}
    assert names(reconcile(store, run.process)) == {"dead-lettered": 1}
    buried = read_ledger(store, "memory").arrivals[arrival.key, arrival.etag]
    assert "5 runs took it" in buried.reason
    assert find_batches(run) == []


def test_states_only_move_forward_and_of_two_writers_one_wins(run: Run) -> None:
    put("a.jsonl", {"id": "a", "text": "card"})
    store = open_store()
    arrival = survey(store, run.process).here[0]
    done = move(store, arrival, lambda _: {"state": "processed", "batch": "first"})
    assert move(store, arrival, lambda _: {"state": "dead-lettered", "reason": "late"}) == done
    assert enter(store, arrival) == done
    asked = []

    def slow(now: Arrival) -> dict[str, Any]:
        """Another writer is faster each time."""
        asked.append(now.attempts)
        store.write(other.place, now.model_copy(update={"attempts": now.attempts + 10}).model_dump_json().encode())
        return {"attempts": now.attempts + 1}

    put("b.jsonl", {"id": "b", "text": "card"})
    other = next(found for found in survey(store, run.process).here if found.key.endswith("b.jsonl"))
    with pytest.raises(Conflict, match="8 times"):
        move(store, other, slow)
    assert len(asked) == 8


def test_a_version_that_goes_before_it_is_taken_is_a_dead_letter_until_it_comes_back(run: Run) -> None:
    store = open_store()
    put("a.jsonl", {"id": "a", "text": "card"})
    survey(store, run.process)
    data = store.read(f"{INBOX}/a.jsonl")[0]
    store.delete(f"{INBOX}/a.jsonl")
    assert names(reconcile(store, run.process)) == {"dead-lettered": 1}
    store.write(f"{INBOX}/a.jsonl", data)
    assert score_all(run)[0] == [f"{INBOX}/a.jsonl"]
    assert ("processed", "unlabelled") in state_of("a.jsonl")
    assert names(reconcile(store, run.process)).get("pending") is None


def test_a_changed_declaration_looks_again_at_what_was_quarantined(run: Run) -> None:
    store = open_store()
    put("odd.jsonl", {"id": "c", "body": "card"})
    assert names(survey(store, run.process)) == {"quarantined": 1}
    sample = run.process.sample.model_copy(update={"prompt": "{body}"})
    changed = Process.model_validate(run.process.model_copy(update={"sample": sample}).model_dump())
    assert names(survey(store, changed)) == {"pending": 1}


def test_what_the_ledger_cannot_know_is_counted_as_unknown(run: Run) -> None:
    store = open_store()
    put("a.jsonl", {"id": "a", "text": "card"})
    place = survey(store, run.process).here[0].place
    store.write(place, b"{}")
    found = reconcile(store, run.process)
    assert found.counts["unknown"] == 2  # the entry, and the version that it does not account for
    store.delete(place)
    assert names(reconcile(store, run.process)) == {"pending": 1}


def test_labelled_records_start_a_training_when_enough_have_gathered(tmp_path: Path) -> None:
    store, run = open_store(), Run(id="now", process=quick(min_new_records=3), flow="train")
    put("a.jsonl", {"id": "a", "text": "card", "queue": "refund"}, {"id": "n", "text": "no label"})
    put("b.jsonl", {"id": "b", "text": "card", "queue": "refund"})
    assert due(store, run.process, survey(store, run.process)) == {}
    put("c.jsonl", {"id": "c", "text": "card", "queue": "refund"})
    found = survey(store, run.process)
    assert [arrival.key[-7:] for arrival in due(store, run.process, found)["train"]] == ["a.jsonl", "b.jsonl", "c.jsonl"]
    begin_training(run)
    read = [{"name": arrival.key, "sha256": arrival.sha256} for arrival in found.here[:2]]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "report.json").write_text(json.dumps({"files": read}))
    learned_from(store_folder(store, tmp_path / "raw", "memory/runs/now/raw"), run)
    after = survey(store, run.process)
    assert [(arrival.state, arrival.attempts, arrival.run) for arrival in after.here] == [
        ("processed", 1, "now"),
        ("processed", 1, "now"),
        ("pending", 1, "now"),
    ]
    assert due(store, run.process, after) == {}


def test_a_file_that_is_still_copied_into_a_folder_waits(tmp_path: Path) -> None:
    publish_tiny(tiny_process(), tmp_path / "version")
    process, store = quick(settle_seconds=1.0), open_store()
    put("a.jsonl", {"id": "a", "text": "card"})
    found = survey(store, process)
    assert (found.settling, found.here) == ([f"{INBOX}/a.jsonl"], [])
    assert [arrival.key for arrival in find_batches(Run(id="now", process=process, flow="score"))] == [f"{INBOX}/a.jsonl"]
    path = Path(os.environ["CLERKFLOW_STORE"]) / INBOX / "a.jsonl"
    os.utime(path, (time.time() + 3600, time.time() + 3600))
    assert is_settled(store, next(inbox_of(store, "memory")), process)


def test_objects_of_a_bucket_appear_whole_and_need_not_wait(store: Store) -> None:
    put("a.jsonl", {"id": "a", "text": "card"})
    settled = is_settled(store, next(inbox_of(store, "memory")), quick(settle_seconds=60))
    assert settled is not isinstance(store, LocalStore)


def test_an_unchanged_entry_is_not_read_again(tmp_path: Path) -> None:
    store = open_store()
    put("a.jsonl", {"id": "a", "text": "card"})
    survey(store, quick())
    first = read_ledger(store, "memory")
    entry = next(iter(first.known))
    again = read_ledger(store, "memory", first)
    assert again.known[entry] is first.known[entry]
    move(store, first.known[entry][1], lambda _: {"state": "processed"})
    assert [arrival.state for arrival in read_ledger(store, "memory", first).arrivals.values()] == ["processed"]


def sheet_that_breaks_off() -> bytes:
    """An XLSX file whose sheet ends in the middle of its row 180."""
    book, broken = openpyxl.Workbook(), io.BytesIO()
    for row in [["id", "text"], *([n, "card"] for n in range(200))]:
        book.worksheets[0].append(row)
    book.save(whole := io.BytesIO())
    with zipfile.ZipFile(whole) as came, zipfile.ZipFile(broken, "w") as made:
        for name in came.namelist():
            made.writestr(name, came.read(name).partition(b'r="180"')[0])
    return broken.getvalue()


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning:openpyxl")
def test_a_bad_file_in_the_inbox_never_stops_the_others(tmp_path: Path) -> None:
    publish_tiny(tiny_process(), tmp_path / "version")
    inbox, long = tmp_path / "store" / "memory" / "inbox", "订" * 80 + ".jsonl"
    good = b'{"id": "a", "text": "card"}\n'
    inbox.mkdir(parents=True)
    for name in (b"1\\2.jsonl", b"3\n4.jsonl", b"5\xff.jsonl", long.encode(), b"9.jsonl"):
        Path(os.fsdecode(os.fsencode(inbox) + b"/" + name)).write_bytes(good + name.hex().encode())  # so that no two are equal
    (tmp_path / "good").write_bytes(good)
    (inbox / "6.jsonl").symlink_to(tmp_path / "good")
    (inbox / "7.xlsx").write_bytes(sheet_that_breaks_off())
    (inbox / "8.parquet").write_bytes(b"PAR1")
    waiting = find_batches(Run(id="now", process=quick(), flow="score"))
    assert sorted(arrival.key for arrival in waiting) == [f"{INBOX}/9.jsonl", f"{INBOX}/{long}"]
    assert state_of("7.xlsx") == state_of("8.parquet") == [("quarantined", None)]
    assert score_all(Run(id="now", process=quick(), flow="score"))[1] == {}
