"""What people have said stands, whichever model is asked about the same records later."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import quick
from benchmarks.memory import publish_tiny, tiny_process
from infra.store import Store, open_store
from tasks.artifacts import Artifact
from tasks.explaining import explain
from tasks.process import Process
from tasks.records import Record
from tasks.reviewing import Queue, item_id
from tasks.runs import Run
from tasks.scoring import score_batch
from tasks.terms import Automation
from tasks.words import Words
from tests.tasks.test_results import many, rows_of, score
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


def test_a_persons_answer_stands_and_a_rejected_record_is_never_accepted(looked_at: Path) -> None:
    store, process = open_store(), tiny_process()
    batch = scored(lines(looked_at, *ROWS, {"id": "d", "text": "order"}), process)
    assert [batch.facts[name] for name in ("rows", "done", "reviewed", "review", "dead", "asked")] == [4, 3, 1, 1, 0, 1]
    (word,) = [word for word in Queue(store, process).words() if word.output]
    first, third, _ = rows_in(store, batch, "predictions.jsonl")
    assert (first["record_id"], first["output"], first["confidence"], first["model_version"]) == ("a", word.output, 1, "reviewed")
    assert (third["record_id"], third["model_version"]) == ("c", batch.facts["version"])
    assert [(row["record_id"], row["reason"]) for row in rows_in(store, batch, "review.jsonl")] == [("b", "rejected")]
    assert len(rows_in(store, batch, "monitoring.jsonl")) == 3
    (chain,) = explain(store, process, batch.facts["batch"], "a")
    assert {link.title: link.facts for link in chain}["reviewer"]["who"] == "Ann"


def test_a_word_counts_for_the_same_inputs_and_while_it_is_as_declared(looked_at: Path) -> None:
    process = tiny_process()
    words = Words(open_store(), process)
    said = words.on(Record("a", {"text": "退款 please"}, "new.jsonl", 1))
    assert said and said.output
    assert words.on(Record("a", {"text": "退款"}, "new.jsonl", 1)) is None
    left = tuple(label for label in quick.LABELS if label != said.output)
    fewer = process.model_copy(update={"output": process.output.model_copy(update={"labels": left})})
    assert Words(open_store(), fewer).on(Record("a", {"text": "退款 please"}, "new.jsonl", 1)) is None


def test_what_is_said_while_a_batch_is_made_is_later_and_keeps_the_row_out_of_the_table(
    looked_at: Path, database: str, tmp_path: Path
) -> None:
    words = Words(open_store(), tiny_process())
    queue = Queue(open_store(), tiny_process())
    (third,) = queue.waiting()
    queue.decide(third, "accepted", "Cy")
    assert words.later() == [third.id]
    later = [item_id("r-1", {"text": "card 1"})]
    score(database, many(tmp_path / "many.jsonl", 3), tmp_path / "out", later=later)
    assert [row[0] for row in rows_of(database)] == ["r-0", "r-2"]


def test_fields_of_any_name_stand_in_the_table(database: str, tmp_path: Path) -> None:
    from tasks.answers import opened_ledger
    from tasks.results import ResultTable
    from tasks.sinks import Predicted
    from tests.tasks.test_results import SINK

    asked = quick.process(output={"fields": {"line": {}, "at": {}, "item": "integer"}})
    with opened_ledger(database, "TEST") as ledger:
        results = ResultTable(ledger.engine, SINK, asked)
        with ledger.keep("quick", {}) as (connection, _):
            rows = [Predicted("1", {"line": "A", "at": "home", "item": 3}, 0.5, "v", 7)]
            assert not results.stage(connection, "b", rows, {7: "x"})
        assert results.publish("b") == 1
        with ledger.engine.connect() as connection:
            (row,) = connection.execute(results.table.select()).mappings()
    assert (row["line"], row["at"], row["item"]) == ("A", "home", 3)
