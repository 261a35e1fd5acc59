"""The chain of a record: everything that led to its output, whatever became of it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.memory import publish_tiny, tiny_process
from infra.store import open_store
from tasks.artifacts import Artifact
from tasks.explaining import Link, explain
from tasks.released import release_reviewed, unreleased
from tasks.reviewing import Queue
from tasks.runs import Run
from tasks.scoring import score_batch
from tests.flows.test_review import put_batch, tickets
from tests.tasks.test_deliveries import SHEET
from tests.tasks.test_scoring import lines

ROWS = [{"id": "a", "text": "退款 please"}, {"id": "b", "text": " "}, {"id": "a-2", "text": "card"}]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    publish_tiny(tiny_process(), tmp_path / "version")
    return Run(id="now", process=tiny_process(), flow="score")


def told(chain: list[Link]) -> dict[str, dict[str, Any]]:
    return {link.title: dict(link.facts) for link in chain}


@pytest.mark.parametrize("output_format", ["jsonl", "csv", "parquet", "xlsx"])
def test_an_accepted_record_is_followed_from_its_line_to_the_model_that_answered(run: Run, tmp_path: Path, output_format: str) -> None:
    batch = score_batch.fn(str(lines(tmp_path / "new.jsonl", *ROWS)), run, output_format)
    assert isinstance(batch, Artifact)
    (chain,) = explain(open_store(), run.process, batch.facts["batch"], "a")
    found = told(chain)
    assert found["input"] == {"text": "退款 please"}
    assert found["record"]["source"] == "new.jsonl" and int(found["record"]["line"]) == 1
    assert found["model"]["version"] == batch.facts["version"]
    assert found["answer"]["became"] == "accepted" and 0.25 <= float(found["answer"]["confidence"]) <= 1
    assert list(found["champion"].values()) and found["batch"]["name"] == batch.facts["batch"]


@pytest.mark.parametrize("output_format", ["jsonl", "csv", "parquet", "xlsx"])
@pytest.mark.parametrize("id", ["_x0041_", "=1", "x" * 200_000], ids=["escape", "formula", "long"])
def test_a_record_is_found_whatever_its_id(run: Run, tmp_path: Path, output_format: str, id: str) -> None:
    batch = score_batch.fn(str(lines(tmp_path / "new.jsonl", {"id": id, "text": "card"}, *ROWS)), run, output_format)
    assert isinstance(batch, Artifact)
    (chain,) = explain(open_store(), run.process, batch.facts["batch"], id)
    assert told(chain)["input"] == {"text": "card"}


def test_a_dead_letter_says_why_and_a_source_that_changed_is_not_quoted(run: Run, tmp_path: Path) -> None:
    source = lines(tmp_path / "new.jsonl", *ROWS)
    batch = score_batch.fn(str(source), run)
    assert isinstance(batch, Artifact)
    name = batch.facts["batch"]
    (dead,) = explain(open_store(), run.process, name, "b")
    assert told(dead)["answer"]["code"] == "input_blank" and json.loads(told(dead)["input"]["content"]) == {"text": " "}
    lines(source, {"id": "a", "text": "other"})
    (dead,) = explain(open_store(), run.process, name, "b")
    (where, place), (_, digest) = told(dead)["as it came"].items()
    row = json.dumps(ROWS[1]).encode()
    assert where.endswith("/dead_letters.raw") and place == f"from byte 0 on {len(row)} bytes"
    assert hashlib.sha256(row).hexdigest() == digest and open_store().read(batch.prefix + "dead_letters.raw")[0] == row + b"\n"
    (gone,) = explain(open_store(), run.process, name, "a")
    assert told(gone)["input"] == {"": "the source is not there any more, or was changed"}
    with pytest.raises(ValueError, match="has no record 'c'"):
        explain(open_store(), run.process, name, "c")
    with pytest.raises(ValueError, match=r"no finished batch '\.\./runs'"):
        explain(open_store(), run.process, "../runs", "a")


def reviewed(run: Run, tmp_path: Path, **batch: Any) -> Run:
    """A process with three records that people have looked at."""
    from tests.flows.test_review import process_of

    run = Run(id="now", process=process_of(batch=batch), flow="score")
    put_batch(open_store(), tickets("one", "two", "three"))
    queue = Queue(open_store(), run.process)
    one, two, three = queue.waiting()
    queue.decide(one, "accepted", "Ann")
    queue.decide(two, "corrected", "Bo", "shipping", "address")
    queue.decide(three, "rejected", "Bo", reason="spam")
    return run


def test_what_people_said_is_released_once_and_is_followed_to_them(run: Run, tmp_path: Path) -> None:
    run = reviewed(run, tmp_path, sheet=SHEET | {"format": "csv", "columns": ["id", "text", "queue"]}, sink={"table": "done"})
    store = open_store()
    batch = release_reviewed.fn(run)
    assert isinstance(batch, Artifact) and batch.rows == 2
    sheet = store.read(batch.prefix + "sheet.csv")[0].decode("utf-8-sig").splitlines()
    assert sheet == ['"id","text","queue"', '"r1","one","billing"', '"r2","two","shipping"']
    assert not unreleased(store, run.process)[0] and release_reviewed.fn(run) is None
    (chain,) = explain(store, run.process, batch.facts["batch"], "r2")
    found = told(chain)
    assert found["input"] == {"text": "two"}
    assert (found["answer"]["output"], found["answer"]["why"]) == ("billing", "unsure")
    assert (found["reviewer"]["who"], found["reviewer"]["output"], found["reviewer"]["reason"]) == ("Bo", "shipping", "address")


def test_released_rows_stand_in_the_table_of_results(run: Run, tmp_path: Path) -> None:
    from infra.database import connected, ledger_url, reading

    run = reviewed(run, tmp_path, sink={"table": "done"})
    release_reviewed.fn(run)
    with connected(ledger_url(), "TEST") as engine, reading(engine) as connection:
        rows = connection.exec_driver_sql("SELECT record_id, queue, model_version FROM done ORDER BY record_id").all()
    assert [tuple(row) for row in rows] == [("r1", "billing", "reviewed"), ("r2", "shipping", "reviewed")]


def test_of_two_words_on_one_record_the_last_is_released_and_neither_again_when_the_batch_is_gone(run: Run, tmp_path: Path) -> None:
    run = reviewed(run, tmp_path)
    store = open_store()
    put_batch(store, tickets("one more"), "b2")  # another text under the id of the first record
    queue = Queue(store, run.process)
    (item,) = queue.waiting()
    queue.decide(item, "corrected", "Cy", "shipping")
    batch = release_reviewed.fn(run)
    assert isinstance(batch, Artifact)
    rows = [json.loads(line) for line in store.read(batch.prefix + "predictions.jsonl")[0].splitlines()]
    assert {row["record_id"]: row["output"] for row in rows} == {"r1": "shipping", "r2": "shipping"}
    assert not unreleased(store, run.process)[0]
    for info in list(store.list(batch.prefix)):
        store.delete(info.key)
    assert not unreleased(store, run.process)[0] and release_reviewed.fn(run) is None


def table_of(run: Run) -> dict[str, str]:
    from infra.database import connected, ledger_url, reading

    with connected(ledger_url(), "TEST") as engine, reading(engine) as connection:
        return dict(connection.exec_driver_sql("SELECT record_id, queue FROM done").tuples().all())


def test_a_void_word_is_never_released_and_a_record_that_is_rejected_later_leaves_the_table_of_results(run: Run, tmp_path: Path) -> None:
    from tests.flows.test_review import process_of

    run = reviewed(run, tmp_path, sink={"table": "done"})
    store = open_store()
    release_reviewed.fn(run)
    put_batch(store, tickets("four"), "b2")
    queue = Queue(store, run.process)
    queue.decide(queue.waiting()[0], "corrected", "Cy", "shipping")
    output = {"label": "queue", "labels": ["billing", "delivery"]}
    process = process_of(output, batch={"sink": {"table": "done"}})
    later = Run(id="later", process=process, flow="score")
    assert unreleased(store, process) == ([], [])

    queue = Queue(store, process)
    two, four = queue.waiting()
    queue.decide(two, "rejected", "Cy", reason="spam")
    queue.decide(four, "corrected", "Cy", "delivery")
    assert [word.output for word in unreleased(store, process)[0]] == ["delivery"]
    assert table_of(run) == {"r1": "billing", "r2": "shipping"}
    release_reviewed.fn(later)
    assert table_of(run) == {"r1": "delivery"}
    assert release_reviewed.fn(later) is None and unreleased(store, process) == ([], [])
