"""What people have said stands, whichever model is asked about the same records later."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from benchmarks import quick
from benchmarks.memory import publish_tiny, tiny_process
from infra.store import Store, open_store
from tasks.answers import opened_ledger
from tasks.artifacts import Artifact
from tasks.claims import batch_key, claimed
from tasks.declaration import DeclarationError
from tasks.explaining import explain
from tasks.process import Process
from tasks.released import release_reviewed
from tasks.results import ResultTable
from tasks.reviewing import Queue
from tasks.runs import Run
from tasks.scoring import replay_batch, score_batch
from tasks.sinks import Predicted
from tasks.terms import Automation, SinkTable
from tasks.words import REVIEWED, Words
from tests.tasks.test_results import SINK, messages, rows_of, score
from tests.tasks.test_scoring import lines

ROWS = [{"id": "a", "text": "退款 please"}, {"id": "b", "text": "card"}, {"id": "c", "text": "late"}]


def scored(source: Path, process: Process) -> Artifact:
    batch = score_batch.fn(str(source), Run(id="now", process=process, flow="score"))
    assert isinstance(batch, Artifact)
    return batch


def rows_in(store: Store, batch: Artifact, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in store.read(batch.prefix + name)[0].splitlines()]


@pytest.fixture
def looked_at(tmp_path: Path) -> Path:
    """A source whose first record a person has corrected, whose second one was rejected, and whose third nobody has looked at."""
    publish_tiny(tiny_process(), tmp_path / "version")
    asked = tiny_process().model_copy(update={"automation": Automation(max_error=0.1)})
    source = lines(tmp_path / "new.jsonl", *ROWS)
    assert scored(source, asked).facts["review"] == 3
    queue = Queue(open_store(), asked)
    first, second, _ = queue.waiting()
    other = next(label for label in quick.LABELS if label != first.proposed.output)
    queue.decide(first, "corrected", "Ann", other)
    queue.decide(second, "rejected", "Bo", reason="no ticket at all")
    return source


def test_a_persons_answer_stands_and_a_rejected_record_is_a_dead_letter(looked_at: Path) -> None:
    store, process = open_store(), tiny_process()
    batch = scored(lines(looked_at, *ROWS, {"id": "d", "text": "order"}), process)
    assert [batch.facts[name] for name in ("rows", "done", "reviewed", "review", "dead", "asked")] == [4, 3, 1, 0, 1, 1]
    (word,) = [word for word in Queue(store, process).said().words if word.output]
    first, third, _ = rows_in(store, batch, "predictions.jsonl")
    assert (first["record_id"], first["output"], first["confidence"], first["model_version"]) == ("a", word.output, 1, "reviewed")
    assert (third["record_id"], third["model_version"]) == ("c", batch.facts["version"])
    (dead,) = rows_in(store, batch, "dead_letters.jsonl")
    assert (dead["record_id"], dead["stage"], dead["code"]) == ("b", "review", "rejected")
    assert len(rows_in(store, batch, "monitoring.jsonl")) == 2
    (chain,) = explain(store, process, batch.facts["batch"], "a")
    assert {link.title: link.facts for link in chain}["reviewer"]["who"] == "Ann"


def test_no_model_is_asked_again_for_what_people_said(looked_at: Path) -> None:
    run = Run(id="now", process=tiny_process(), flow="score")
    released = release_reviewed.fn(run)
    assert released and released.facts["done"] == 1
    with pytest.raises(ValueError, match="holds what people said"):
        replay_batch.fn(released.facts["batch"], run)


@pytest.mark.parametrize("output_format", ["csv", "parquet", "xlsx"])
def test_a_reviewed_record_is_explained_whatever_its_id_and_the_format(tmp_path: Path, output_format: str) -> None:
    publish_tiny(tiny_process(), tmp_path / "version")
    source = lines(tmp_path / "new.jsonl", {"id": "+49170", "text": "card"})
    asked = tiny_process().model_copy(update={"automation": Automation(max_error=0.1)})
    scored(source, asked)
    queue = Queue(open_store(), asked)
    queue.decide(queue.waiting()[0], "accepted", "Ann")
    run = Run(id="now", process=tiny_process(), flow="score")
    batch = score_batch.fn(str(lines(source, {"id": "+49170", "text": "card"}, {"id": "b", "text": "late"})), run, output_format)
    assert isinstance(batch, Artifact)
    (chain,) = explain(open_store(), run.process, batch.facts["batch"], "+49170")
    assert {link.title: link.facts for link in chain}["reviewer"]["who"] == "Ann"


def word_on(process: Process, today: Process, values: dict[str, Any]) -> Any:
    words = Words(open_store(), process, today)
    return words.on(words.known_by("a", values))


def test_a_word_counts_for_what_the_prompt_shows_whatever_else_a_record_carries(looked_at: Path) -> None:
    process = tiny_process()
    said = word_on(process, process, {"text": "退款 please", "region": "north"})
    assert said and said.output
    assert word_on(process, process, {"text": "退款"}) is None


def test_a_word_counts_while_it_is_as_declared_today_or_by_the_model(looked_at: Path) -> None:
    process = tiny_process()
    shown = {"text": "退款 please"}
    said = word_on(process, process, shown)
    left = tuple(label for label in quick.LABELS if label != said.output)
    fewer = process.model_copy(update={"output": process.output.model_copy(update={"labels": left})})
    assert word_on(fewer, process, shown) == word_on(process, fewer, shown) == said
    assert word_on(fewer, fewer, shown) is None
    form = quick.process(name="memory", output={"fields": {"queue": {}}})
    assert word_on(form, form, shown) is word_on(form, process, shown) is None
    (batch,) = {info.key.split("/")[2] for info in open_store().list("memory/batches/")}
    (chain,) = explain(open_store(), fewer, batch, "a")
    facts = {link.title: link.facts for link in chain}
    assert facts["answer"]["became"] == "for a person, who has not looked at it yet"
    assert "the record waits again" in facts["reviewer"]["void"] and facts["reviewer"]["output"] == said.output


def test_fields_as_a_model_writes_them_are_words_that_count(tmp_path: Path) -> None:
    from tests.flows.test_review import process_of, put_batch

    process, store = process_of({"fields": {"item": {}, "tags": {"list": True, "optional": True}}}), open_store()
    put_batch(store, [{"inputs": {"text": "one"}, "output": {"item": "Bob ", "tags": []}}])
    queue = Queue(store, process)
    queue.decide(queue.waiting()[0], "accepted", "Ann")
    words = Words(store, process, process)
    said = words.on(words.known_by("r1", {"text": "one"}))
    assert said and said.output == {"item": "Bob ", "tags": []}
    words = Words(store, fewer := process_of({"fields": {"item": {}}}), fewer)
    said = words.on(words.known_by("r1", {"text": "one"}))
    assert said and said.output == {"item": "Bob "}  # without a field that is gone


def test_what_is_said_while_a_batch_is_made_is_later_and_keeps_the_row_out_of_the_table(
    looked_at: Path, database: str, tmp_path: Path
) -> None:
    process = tiny_process()
    words, queue = Words(open_store(), process, process), Queue(open_store(), process)
    (third,) = queue.waiting()
    queue.decide(third, "accepted", "Cy")
    later = words.later()
    assert later == [words.known_by("c", {"text": "late", "region": "north"})]
    source = messages(tmp_path / "many.jsonl", {"id": "b", "text": "card"}, {"id": "c", "text": "late"}, {"id": "d", "text": "late"})
    score(database, source, tmp_path / "out", later=later, words=words)
    assert [row[0] for row in rows_of(database)] == ["d"]  # b was rejected before


def test_what_an_attempt_has_accepted_that_was_not_finished_is_not_in_the_table(looked_at: Path, database: str, tmp_path: Path) -> None:
    process, source = tiny_process(), messages(tmp_path / "one.jsonl", {"id": "b", "text": "card"}, {"id": "d", "text": "late"})
    score(database, source, tmp_path / "out", publish=False)
    score(database, source, tmp_path / "out", words=Words(open_store(), process, process))
    assert [row[0] for row in rows_of(database)] == ["d"]


def test_fields_of_any_name_stand_in_the_table(database: str, tmp_path: Path) -> None:
    asked = quick.process(output={"fields": {"line": {}, "at": {}, "item": "integer"}})
    with opened_ledger(database, "TEST") as ledger:
        results = ResultTable(ledger.engine, SINK, asked)
        with ledger.keep("quick", {}) as (connection, _):
            assert not results.stage(connection, "b", [Predicted("1", {"line": "A", "at": "home", "item": 3}, 0.5, "v", 7)])
            huge = results.stage(connection, "b", [Predicted("2", {"line": "A", "at": "home", "item": 10**20}, 0.5, "v", 8)])
            assert "does not fit" in huge[8][1]
        assert results.publish("b") == 1
        with ledger.engine.connect() as connection:
            (row,) = connection.execute(results.table.select()).mappings()
    assert (row["line"], row["at"], row["item"]) == ("A", "home", 3)


def test_names_of_columns_that_are_kept_for_rows_on_their_way_are_refused() -> None:
    with pytest.raises(DeclarationError, match="clerkflow_line is what every table of results has for itself"):
        quick.process(output={"fields": {"clerkflow_line": {}}}, batch={"sink": {"table": "done"}})


def test_rows_move_into_the_table_while_nothing_is_released(looked_at: Path, tmp_path: Path) -> None:
    sink = tiny_process().batch.model_copy(update={"sink": SinkTable(table="routed")})
    store, process = open_store(), tiny_process().model_copy(update={"batch": sink})
    source, before = lines(tmp_path / "more.jsonl", *ROWS), names_in(store)
    with ThreadPoolExecutor() as pool:
        with claimed(store, batch_key("memory", REVIEWED), "a release"):
            scoring = pool.submit(scored, source, process)
            for _ in range(120):
                if any(name.endswith("/predictions.jsonl") for name in names_in(store) - before):
                    break
                time.sleep(0.5)
            time.sleep(1)
            assert not scoring.done() and not any(name.endswith("/manifest.json") for name in names_in(store) - before)
        assert scoring.result(60).facts["done"] == 2


def names_in(store: Store) -> set[str]:
    return {info.key for info in store.list("memory/batches/")}
