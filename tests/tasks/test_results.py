"""Batches into SQL tables with a model that answers at once: exactly once, whole or not seen, through kills and rivals."""

import json
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from benchmarks import quick
from infra.database import DatabaseAwayError, connected, reading, writing
from infra.store import open_store
from tasks.answering import Terms, score_file
from tasks.answers import opened_ledger
from tasks.artifacts import file_digest, modified_at
from tasks.contents import Seen, absent_in
from tasks.process import Process
from tasks.replays import Again, Earlier, Letter
from tasks.results import ResultTable
from tasks.reviews import shown_id
from tasks.sinks import Predicted
from tasks.sources import Source
from tasks.tallies import Tally
from tasks.terms import Batches, SinkTable
from tasks.words import REVIEWED, Words

SINK = SinkTable(database="ORDERS_DATABASE", table="routed")


def messages(path: Path, *rows: dict[str, Any]) -> Source:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Source(path, path.name, file_digest(path), modified_at(path), str(path))


def many(path: Path, count: int, first: int = 0) -> Source:
    return messages(path, *({"id": f"r-{number}", "text": f"card {number}"} for number in range(first, first + count)))


def score(
    database: str, source: Source, folder: Path, batch: str = "b", publish: bool = True, later: Sequence[str] = (), **terms: Any
) -> Tally:
    """A batch into the table, as scoring makes it."""
    asked = quick.process()
    folder.mkdir(exist_ok=True)
    with opened_ledger(database, "TEST") as ledger:
        results = ResultTable(ledger.engine, SINK, asked)
        results.begin(batch)
        tally = score_file(source, quick.champion(asked), asked, Terms(ledger, batch, "jsonl", results=results, **terms), folder)
        if publish:
            shown = tuple(asked.input_columns)
            absent = absent_in(folder, lambda id, inputs: shown_id(id, inputs, shown), asked.records.key, "again" in terms)
            results.publish(batch, Seen(shown, absent, later))
    return tally


@contextmanager
def ask(database: str) -> Iterator[Callable[[str], list[Any]]]:
    with connected(database, "TEST") as engine, reading(engine) as connection:
        yield lambda query: [tuple(row) for row in connection.execute(text(query))]


def rows_of(database: str) -> list[Any]:
    with ask(database) as select:
        return select("SELECT record_id, queue, confidence, model_version, batch FROM routed ORDER BY record_id")


def expected(count: int, batch: str = "b") -> list[Any]:
    found = [(f"r-{number}", quick.label_of(f"Message: card {number}\nQueue:"), 0.75, "quick-1", batch) for number in range(count)]
    return sorted(found)


def test_a_batch_is_seen_when_it_is_whole_and_the_same_again_changes_nothing(database: str, tmp_path: Path) -> None:
    source = many(tmp_path / "new.jsonl", 5)
    assert score(database, source, tmp_path / "out", publish=False).asked == 5
    assert rows_of(database) == []
    assert score(database, source, tmp_path / "out").asked == 0
    assert rows_of(database) == expected(5)
    score(database, source, tmp_path / "out")
    assert rows_of(database) == expected(5)


def test_overlapping_files_are_paid_once_and_stand_once(database: str, tmp_path: Path) -> None:
    assert score(database, many(tmp_path / "a.jsonl", 6), tmp_path / "out", "a").asked == 6
    assert score(database, many(tmp_path / "b.jsonl", 6, first=4), tmp_path / "out", "b").asked == 4
    assert [row[0] for row in rows_of(database)] == [f"r-{number}" for number in range(10)]
    assert {row[4] for row in rows_of(database)} == {"a", "b"}


def test_of_two_records_with_one_id_the_second_is_a_dead_letter(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.answering.CHUNK_RECORDS", 2)
    rows = [{"id": id, "text": f"card {number}"} for number, id in enumerate("aabca")]
    for _ in range(2):
        tally = score(database, messages(tmp_path / "new.jsonl", *rows), tmp_path / "out")
        assert (tally.rows, tally.done, tally.dead, tally.reasons) == (5, 3, 2, {"doubled_id": 2})
    assert [row[0] for row in rows_of(database)] == ["a", "b", "c"]
    assert rows_of(database)[0][1] == quick.label_of("Message: card 0\nQueue:")


def test_rows_without_an_id_that_are_alike_have_one_row(database: str, tmp_path: Path) -> None:
    tally = score(database, messages(tmp_path / "new.jsonl", *[{"text": "card"}] * 3, {"text": "card", "day": "monday"}), tmp_path / "out")
    assert (tally.done, tally.reasons) == (1, {"repeated": 3})
    assert len(rows_of(database)) == 1


@pytest.mark.parametrize("second", [{"text": "late"}, {"text": "card"}, {"text": " "}])
def test_a_replay_of_what_stood_behind_another_record_leaves_that_ones_row(database: str, tmp_path: Path, second: dict[str, str]) -> None:
    source = messages(tmp_path / "new.jsonl", {"id": "a", "text": "card"}, {"id": "a"} | second)
    score(database, source, tmp_path / "out")
    before = rows_of(database)
    again = Again("b", source.location, source.sha256, [Letter("a", 2, "doubled_id", 1)], lambda: Earlier(set(), {}))
    tally = score(database, source, tmp_path / "again", "replay", again=again)
    assert (tally.rows, tally.dead) == (1, 1)
    assert rows_of(database) == before and len(before) == 1


def test_a_replay_of_what_stood_before_the_record_that_was_answered_leaves_its_row(database: str, tmp_path: Path) -> None:
    source = messages(tmp_path / "new.jsonl", {"id": "a"}, {"id": "a", "text": "card"})
    assert score(database, source, tmp_path / "out").done == 1
    again = Again("b", source.location, source.sha256, [Letter("a", 1, "input_missing", 1)], lambda: Earlier(set(), {}))
    assert score(database, source, tmp_path / "again", "replay", again=again).reasons == {"input_missing": 1}
    assert [row[0] for row in rows_of(database)] == ["a"]


def test_a_row_that_cannot_be_read_any_more_leaves_no_answer_to_what_it_held_before(database: str, tmp_path: Path) -> None:
    first = [{"id": id, "text": "card"} for id in (7, 8, 9)]
    score(database, messages(tmp_path / "a.jsonl", *first), tmp_path / "out", "a")
    broken = messages(tmp_path / "b.jsonl", first[0] | {"text": "\udcff"}, first[1] | {"text": "\udcff", "id": True}, first[2])
    tally = score(database, broken, tmp_path / "out", "b")
    assert (tally.done, tally.reasons) == (1, {"unreadable": 2})
    assert [(row[0], row[4]) for row in rows_of(database)] == [("8", "a"), ("9", "b")]  # which record the second one is cannot be told


@pytest.mark.parametrize("told", ["shown = '[\"else\"]', item = 'else'", None])
def test_a_word_released_while_a_batch_is_made_stays_though_nobody_knows_what_the_row_before_was(
    database: str, tmp_path: Path, told: str | None
) -> None:
    source = many(tmp_path / "new.jsonl", 2)
    score(database, source, tmp_path / "out", "a")
    with connected(database, "TEST") as engine:
        results = ResultTable(engine, SINK, quick.process())
        table = results.contents.table.name
        with writing(engine) as connection:
            connection.exec_driver_sql(f"UPDATE {table} SET {told}" if told else f"DELETE FROM {table}")
            results.stage(connection, "reviewed-1", [Predicted("r-0", quick.LABELS[0], 1.0, REVIEWED, 1)])
        results.publish("reviewed-1")
    spoken = shown_id("r-0", {"text": "card 0"}, ["text"])
    score(database, source, tmp_path / "out", "b", later=[spoken], words=Words(open_store(), quick.process(), quick.process()))
    assert [(row[0], row[3], row[4]) for row in rows_of(database)] == [("r-0", REVIEWED, "reviewed-1"), ("r-1", "quick-1", "b")]


def test_an_id_too_long_for_a_key_costs_its_row_and_not_the_batch(database: str, tmp_path: Path) -> None:
    rows = [{"id": secrets.token_hex(5_000), "text": "card"}, {"id": "a", "text": "card"}]
    tally = score(database, messages(tmp_path / "new.jsonl", *rows), tmp_path / "out")
    assert (tally.done, tally.dead, tally.reasons) == (1, 1, {"unparseable": 1})
    assert [row[0] for row in rows_of(database)] == ["a"]


def test_a_poisoned_batch_is_stopped_nothing_is_seen_and_what_was_answered_is_kept(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.answering.CHUNK_RECORDS", 50)
    rows = [{"id": f"r-{number}", "text": f"card {number}" if number < 190 else None} for number in range(1000)]
    told = r"stopped: 22 of the first 212 records are dead letters, batch.max_dead is 0.1: input_missing 22; nothing of this batch is seen"
    with pytest.raises(ValueError, match=told):
        score(database, messages(tmp_path / "new.jsonl", *rows), tmp_path / "out", wanted=Batches(max_dead=0.1))
    assert rows_of(database) == []
    assert score(database, many(tmp_path / "mended.jsonl", 190), tmp_path / "out").asked == 90  # two whole chunks were known


@pytest.mark.parametrize(
    ("rows", "dead", "stopped"), [(151, 150, True), (151, 30, True), (3, 3, True), (9, 1, False), (2, 1, False), (1, 1, False)]
)
def test_a_small_batch_is_stopped_at_its_end_where_so_many_dead_letters_are_no_accident(
    tmp_path: Path, rows: int, dead: int, stopped: bool
) -> None:
    source = messages(tmp_path / "new.jsonl", *({"id": str(n), "text": " " if n < dead else f"card {n}"} for n in range(rows)))
    (tmp_path / "out").mkdir()
    asked = quick.process()
    with opened_ledger(f"sqlite:///{tmp_path / 'ledger.db'}", "TEST") as ledger, ExitStack() as stack:
        if stopped:
            told = f"stopped: {dead} of the first {rows} records are dead letters, batch.max_dead is 0.1: input_blank {dead}"
            stack.enter_context(pytest.raises(ValueError, match=told))
        tally = score_file(source, quick.champion(asked), asked, Terms(ledger, "b", "jsonl", Batches(max_dead=0.1)), tmp_path / "out")
        assert (tally.done, tally.dead) == (rows - dead, dead)


def test_a_table_that_cannot_hold_the_results_says_all_that_is_wrong(database: str, tmp_path: Path) -> None:
    with connected(database, "TEST") as engine, writing(engine) as connection:
        connection.execute(text("CREATE TABLE routed (record_id TEXT, queue INTEGER, batch TEXT, model_version TEXT, shop TEXT NOT NULL)"))
    with pytest.raises(ValueError, match=r"routed cannot hold .*no column confidence.*queue is INTEGER.*shop must be filled.*unique"):
        score(database, many(tmp_path / "new.jsonl", 1), tmp_path / "out")


def test_columns_have_the_types_of_the_declared_fields(database: str) -> None:
    fields = {"customer": {}, "boxes": "integer", "price": "number", "paid": "boolean", "due": "date", "lines": {"list": True}}
    asked: Process = quick.process(output={"fields": fields})
    output = {"customer": "a\0\ud83d退", "boxes": 3, "price": 1.5, "paid": True, "due": "2026-01-31", "lines": ["x", "y"]}
    with opened_ledger(database, "TEST") as ledger:
        results = ResultTable(ledger.engine, SINK, asked)
        outputs = (output, {"customer": "b"}, {"boxes": "x"})
        rows = [Predicted(str(line), each, 0.5, "v", line) for line, each in enumerate(outputs, start=1)]
        with ledger.keep("quick", {}) as (connection, _):
            left = results.stage(connection, "b", rows)
        assert results.publish("b") == 2
        with reading(ledger.engine) as connection:
            first, second = connection.execute(results.table.select().order_by(results.table.c.record_id)).mappings()
    assert {line: str(reason) for line, (reason, _) in left.items()} == {3: "unparseable"}
    assert (first["customer"], str(first["due"]), first["lines"]) == ("a\N{REPLACEMENT CHARACTER}?退", "2026-01-31", ["x", "y"])
    assert [first[name] for name in ("boxes", "price", "paid")] == [3, 1.5, True]
    assert [second[name] for name in ("boxes", "price", "paid", "due")] == [None] * 4


CHILD = """
import os, signal, sys
from pathlib import Path
import tasks.answering, tasks.results
from tests.tasks.test_results import many, score
database, folder, point, calls = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
tasks.answering.CHUNK_RECORDS = 10
owner, name = {"staged": (tasks.results.ResultTable, "stage"), "written": (tasks.answering.Job, "_write"),
               "published": (tasks.results.ResultTable, "publish")}[point]
body = getattr(owner, name)
left = [calls]
def killed(*words):
    found = body(*words)
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return found
setattr(owner, name, killed)
print(score(database, many(folder / "new.jsonl", 60), folder / "out").done)
"""


@pytest.mark.parametrize(("point", "calls"), [("staged", 3), ("written", 6), ("published", 1)])
def test_killed_at_any_step_and_done_again_each_record_stands_once(database: str, tmp_path: Path, point: str, calls: int) -> None:
    words = [sys.executable, "-c", CHILD, database, str(tmp_path), point, str(calls)]
    killed = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert killed.returncode == -9, killed.stderr
    before = rows_of(database)
    assert before == (expected(60) if point == "published" else [])
    again = score(database, many(tmp_path / "new.jsonl", 60), tmp_path / "out")
    assert again.asked == {"staged": 40, "written": 0, "published": 0}[point]
    assert rows_of(database) == expected(60)


def test_two_jobs_at_once_on_one_table_agree(database: str, tmp_path: Path) -> None:
    code = CHILD.partition("owner, name")[0] + "print(score(database, many(folder / 'new.jsonl', 300), folder / 'out', point).done)"
    jobs = []
    for name in "ab":
        (tmp_path / name).mkdir()
        words = [sys.executable, "-c", code, database, str(tmp_path / name), name, "0"]
        jobs.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    told = [job.communicate(timeout=240) for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], told
    assert [(row[0], row[1]) for row in rows_of(database)] == [(row[0], row[1]) for row in expected(300)]
    with ask(database) as select:
        assert select("SELECT count(*) FROM clerkflow_answers") == [(300,)]


def test_a_database_that_goes_away_in_the_midst_loses_nothing(postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.conftest import new_database

    monkeypatch.setattr("tasks.answering.CHUNK_RECORDS", 10)
    with new_database(postgres) as database, connected(postgres, "TEST") as other:
        source, calls = many(tmp_path / "new.jsonl", 40), iter(range(9))
        predict = quick.Predictor.predict

        def cut(self: quick.Predictor, prompts: Any) -> Any:
            if next(calls) == 2:  # every connection is ended, and none may be opened
                name = database.rpartition("/")[2]
                with writing(other) as connection:
                    connection.execute(text(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'))
                    connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"))
            return predict(self, prompts)

        monkeypatch.setattr(quick.Predictor, "predict", cut)
        with pytest.raises(DatabaseAwayError, match="did not answer"):
            score(database, source, tmp_path / "out")
        with writing(other) as connection:
            connection.execute(text(f'ALTER DATABASE "{database.rpartition("/")[2]}" ALLOW_CONNECTIONS true'))
        assert score(database, source, tmp_path / "out").asked == 20
        assert rows_of(database) == expected(40)
