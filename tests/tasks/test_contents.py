"""The table of results shows what the source holds now: no word on what a record held before, and no answer to it."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from benchmarks import quick
from benchmarks.memory import publish_tiny, tiny_process
from infra.database import connected, writing
from infra.store import open_store
from tasks.arrivals import score_waiting
from tasks.artifacts import Artifact
from tasks.batches import accounted
from tasks.claims import batch_key, claimed
from tasks.process import Process
from tasks.released import release_reviewed, unreleased
from tasks.results import ResultTable
from tasks.reviewing import Queue
from tasks.reviews import Word
from tasks.runs import Run
from tasks.words import REVIEWED
from tests.flows.test_review import process_of, put_batch
from tests.tasks.test_results import ask, messages, rows_of, score
from tests.tasks.test_scoring import between_tables

Change = Callable[..., list[Artifact]]


def process_that(accepts: bool) -> Process:
    """It reads one table and fills another; all answers are accepted, or all wait for a person."""
    process = between_tables(Run(id="now", process=tiny_process(), flow="score")).process
    declared = process.model_dump(mode="json") | ({} if accepts else {"automation": {"max_error": 0.1}})
    return Process.model_validate(declared)


@pytest.fixture
def change(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Change:
    """Change the table of mails by a statement, and score it; the batches."""
    monkeypatch.setenv("ORDERS_DATABASE", database)
    publish_tiny(tiny_process(), tmp_path / "version")

    def changed(statement: str = "", accepts: bool = True, output_format: str = "jsonl") -> list[Artifact]:
        if statement:
            with connected(database, "TEST") as engine, writing(engine) as connection:
                connection.exec_driver_sql(statement)
        return score_waiting([], Run(id="now", process=process_that(accepts), flow="score"), output_format).batches

    with connected(database, "TEST") as engine, writing(engine) as connection:
        connection.exec_driver_sql("CREATE TABLE mails (id INTEGER PRIMARY KEY, text TEXT)")
    return changed


def say(text: str, word: Word, output: str | None = None) -> str | None:
    """A person's word on the record that holds a text; another label than was proposed, unless one is named."""
    queue = Queue(open_store(), process_that(accepts=False))
    item = next(item for item in queue.waiting() if item.proposed.inputs["text"] == text)
    other = next(label for label in quick.LABELS if label != item.proposed.output)
    answer = (output or other) if word == "corrected" else None
    queue.decide(item, word, "Ann", answer, "spam" if word == "rejected" else "")
    return answer


def shown(database: str) -> dict[str, tuple[str, str]]:
    with ask(database) as select:
        return {id: (queue, version) for id, queue, version in select("SELECT record_id, queue, model_version FROM routed")}


def test_a_word_on_what_a_record_held_before_changes_no_row_and_is_counted(change: Change, database: str) -> None:
    change("INSERT INTO mails VALUES (1, 'old words')", accepts=False)
    change("UPDATE mails SET text = 'new words'")
    before = shown(database)
    assert before["1"][1] != "reviewed"
    say("old words", "corrected", next(label for label in quick.LABELS if label != before["1"][0]))
    (_, released) = change()
    assert shown(database) == before
    assert [released.facts[name] for name in ("rows", "done", "review", "dead", "outdated")] == [1, 0, 0, 1, 1]
    told = "1 records in = 0 accepted + 0 to review + 1 dead letters (1 words on what records held before)"
    assert accounted(released) == told
    (letter,) = open_store().read(released.prefix + "dead_letters.jsonl")[0].splitlines()
    assert (json.loads(letter)["code"], json.loads(json.loads(letter)["content"])["text"]) == ("outdated", "old words")
    manifest = json.loads(open_store().read(released.prefix + "manifest.json")[0])
    assert manifest["reasons"] == {"outdated": 1} and len(change()) == 1  # it is told once


def test_a_rejection_of_what_a_record_held_before_deletes_no_row(change: Change, database: str) -> None:
    change("INSERT INTO mails VALUES (1, 'old words')", accepts=False)
    change("UPDATE mails SET text = 'new words'", accepts=False)
    right = say("new words", "corrected")
    change()
    say("old words", "rejected")
    change()
    assert shown(database) == {"1": (right, "reviewed")}
    assert unreleased(open_store(), process_that(accepts=True)) == ([], [])


def test_of_two_contents_that_both_wait_the_word_on_what_was_seen_last_counts_whichever_comes_first(change: Change, database: str) -> None:
    change("INSERT INTO mails VALUES (1, 'old words'), (2, 'old too')", accepts=False)
    change("UPDATE mails SET text = CASE id WHEN 1 THEN 'new words' ELSE 'new too' END", accepts=False)
    say("old words", "corrected")
    change(accepts=False)
    assert shown(database) == {}
    right, newer = say("new words", "corrected"), say("new too", "corrected")
    say("old too", "corrected")
    (_, released) = change(accepts=False)
    assert shown(database) == {"1": (right, "reviewed"), "2": (newer, "reviewed")}
    assert [released.facts[name] for name in ("rows", "done", "dead", "outdated")] == [3, 2, 1, 1]


def test_a_record_that_is_dead_or_waits_with_other_words_has_no_row_any_more(change: Change, database: str) -> None:
    change("INSERT INTO mails VALUES (1, 'card'), (2, 'late'), (3, 'order'), (4, 'refund')")
    change("UPDATE mails SET text = CASE id WHEN 1 THEN NULL WHEN 2 THEN 'twice' ELSE text END")
    assert [*shown(database)] == ["2", "3", "4"]
    change("UPDATE mails SET text = text || ' please' WHERE id = 3", accepts=False)  # now all of them wait
    assert shown(database) == {}
    right = say("order please", "corrected")
    change("DELETE FROM mails WHERE id = 4", accepts=False)
    assert shown(database) == {"3": (right, "reviewed")}
    change("UPDATE mails SET text = 'card' WHERE id = 1", accepts=False)
    assert shown(database) == {"3": (right, "reviewed")}
    change("DELETE FROM mails WHERE id = 3")
    assert set(shown(database)) == {"1", "2", "3"} and shown(database)["3"] == (right, "reviewed")  # what is gone from the source stays


def names(batches: list[Artifact]) -> list[str]:
    return [batch.facts["batch"] for batch in batches]


def test_what_else_is_made_of_rows_that_did_not_change_makes_one_batch_and_no_more(change: Change, database: str) -> None:
    first, other = change("INSERT INTO mails VALUES (1, 'card')"), change(output_format="csv")
    assert names(first) != names(other)
    for _ in range(2):
        assert (names(change()), names(change(output_format="csv"))) == (names(first), names(other))
    change("UPDATE mails SET text = 'late'")
    back, again = change("UPDATE mails SET text = 'card'"), change(output_format="csv")
    assert (names(change()), names(change(output_format="csv"))) == (names(back), names(again))


def test_answers_that_are_accepted_again_as_they_were_before_are_shown_again(change: Change, database: str) -> None:
    first, before = change("INSERT INTO mails VALUES (1, 'card'), (2, 'late')"), shown(database)
    other = change(accepts=False)
    assert shown(database) == {} != before
    back = change()
    assert shown(database) == before and len({*names(first), *names(other), *names(back)}) == 3
    assert names(change()) == names(back)


def test_a_table_of_results_that_was_emptied_or_is_a_new_one_is_filled_again_once(change: Change, database: str) -> None:
    first = change("INSERT INTO mails VALUES (1, 'card'), (2, 'late'), (3, NULL)")
    before, batches = shown(database), [names(first)]
    for gone in ("DELETE FROM routed", "DROP TABLE routed", "DELETE FROM clerkflow_turns", "DELETE FROM routed"):
        batches.append(names(change(gone)))
        assert shown(database) == before
        assert names(change()) == batches[-1]
    assert len({name for (name,) in batches}) == len(batches)
    assert names(change("DELETE FROM routed WHERE record_id = '1'")) == batches[-1]  # somebody's own wish


def test_of_two_runs_at_once_on_a_declared_table_one_copies_and_shows_its_rows(change: Change, database: str) -> None:
    store, run = open_store(), Run(id="later", process=process_that(accepts=True), flow="score")
    change("INSERT INTO mails VALUES (1, 'card')")
    with ThreadPoolExecutor() as pool:
        with claimed(store, batch_key("memory", REVIEWED), "a release"):
            first = pool.submit(change, "UPDATE mails SET text = 'old words'")
            for _ in range(240):
                if sum(info.key.endswith("/predictions.jsonl") for info in store.list("memory/batches/")) > 1:
                    break
                time.sleep(0.25)
            with connected(database, "TEST") as engine, writing(engine) as connection:
                connection.exec_driver_sql("UPDATE mails SET text = 'new words'")
            (left,) = pool.submit(score_waiting, [], run, "jsonl").result(30).left
            assert left.run == "now"
        (older,) = first.result(60)
    (newer,) = change()
    with ask(database) as select:
        assert select("SELECT batch FROM routed") == [(newer.facts["batch"],)] != [(older.facts["batch"],)]


def test_who_lost_the_right_to_a_declared_tables_rows_moves_none(change: Change, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store, stage = open_store(), ResultTable.stage
    (first,) = change("INSERT INTO mails VALUES (1, 'card')")

    def overtaken(*words: Any) -> Any:
        for info in list(store.list("memory/claims/batches/rows-")):
            store.delete(info.key)
        return stage(*words)

    monkeypatch.setattr(ResultTable, "stage", overtaken)
    assert change("UPDATE mails SET text = 'late'") == []
    with ask(database) as select:
        assert select("SELECT batch FROM routed") == [(first.facts["batch"],)]


def test_an_answer_that_does_not_fit_the_table_is_a_dead_letter_of_what_is_released(database: str, tmp_path: Path) -> None:
    process = process_of({"fields": {"boxes": "integer"}}, batch={"sink": {"table": "packed"}})
    put_batch(
        open_store(), [{"inputs": {"text": "many"}, "output": {"boxes": 10**20}}, {"inputs": {"text": "few"}, "output": {"boxes": 3}}]
    )
    queue = Queue(open_store(), process)
    for item in queue.waiting():
        queue.decide(item, "accepted", "Ann")
    batch = release_reviewed.fn(Run(id="now", process=process, flow="score"))
    assert isinstance(batch, Artifact)
    assert [batch.facts[name] for name in ("rows", "done", "review", "dead", "outdated")] == [2, 1, 0, 1, 0]
    assert accounted(batch) == "2 records in = 1 accepted + 0 to review + 1 dead letters"
    rows = {name: open_store().read(batch.prefix + name)[0].splitlines() for name in ("predictions.jsonl", "dead_letters.jsonl")}
    assert [json.loads(line)["record_id"] for line in rows["predictions.jsonl"]] == ["r2"]
    assert [(json.loads(line)["record_id"], json.loads(line)["code"]) for line in rows["dead_letters.jsonl"]] == [("r1", "unparseable")]
    with ask(database) as select:
        assert select("SELECT record_id, boxes FROM packed") == [("r2", 3)]


def test_more_records_than_a_statement_takes_lose_their_rows_too(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.results.CHUNK_IDS", 2)
    monkeypatch.setattr("tasks.contents.CHUNK_IDS", 2)
    rows: list[dict[str, Any]] = [{"id": f"r-{number}", "text": "card"} for number in range(6)]
    score(database, messages(tmp_path / "all.jsonl", *rows), tmp_path / "out", "a")
    dead = [row | {"text": None} for row in rows[:5]]
    score(database, messages(tmp_path / "dead.jsonl", *dead, {"id": "x" * 3_000}, {"id": "r-9", "text": "card"}), tmp_path / "out", "b")
    assert [row[0] for row in rows_of(database)] == ["r-5", "r-9"]
