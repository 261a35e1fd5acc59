"""The ledger of answers, in SQLite and in a real PostgreSQL."""

import json
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.database import DatabaseAwayError, ledger_url
from tasks.answers import Answers, as_json, from_json, key_of, opened_ledger
from tasks.predictions import Prediction

NAME = "CLERKFLOW_LEDGER_URL"


def said(output: object, confidence: float = 0.5) -> Prediction:
    return Prediction(output, "", confidence, None, 3)


@pytest.fixture
def ledger(database: str) -> Iterator[Answers]:
    with opened_ledger(database, NAME) as opened:
        yield opened


def keep(ledger: Answers, answers: dict[bytes, Prediction]) -> dict[bytes, Prediction]:
    with ledger.keep("p", answers) as (_, counted):
        return counted


def test_what_was_answered_is_known_and_the_first_answer_counts(ledger: Answers) -> None:
    first, second, third = (key_of("root", "greedy", id, "prompt") for id in "abc")
    keep(ledger, {first: said("x"), second: said({"a": [1, None]}, 0.25)})
    assert keep(ledger, {second: said("later"), third: said("z")}) == {second: said({"a": [1, None]}, 0.25), third: said("z")}
    assert ledger.known([first, third, b"0" * 32]) == {first: said("x"), third: said("z")}
    assert ledger.known([]) == {} == keep(ledger, {})


def test_more_keys_than_one_statement_can_ask_for_are_found(ledger: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.answers.MOST_PARAMETERS", 100)
    answers = {key_of("root", "greedy", str(number), ""): said(number) for number in range(1_050)}
    assert keep(ledger, answers) == answers
    assert ledger.known(list(answers)) == answers


def test_every_part_of_a_key_decides() -> None:
    same = ["m", "d", "i", "p"]
    keys = {key_of(*same)} | {key_of(*same[:place], "x", *same[place + 1 :]) for place in range(4)}
    assert len(keys) == 5
    assert key_of("m", "d", "ab", "c") != key_of("m", "d", "a", "bc")


@pytest.mark.parametrize("output", ["a\0b", "\ud83d", "退款", None, {"n": 1.5, "t": ["x"]}])
def test_every_text_comes_back_as_it_was(ledger: Answers, output: object) -> None:
    key = key_of("root", "greedy", "\ud83d\0", "p")
    keep(ledger, {key: said(output)})
    assert ledger.known([key]) == {key: said(output)}
    assert as_json(said(output)).isascii()
    assert from_json(as_json(said(output))) == said(output)


def test_what_is_written_beside_answers_is_there_together_with_them_or_not_at_all(ledger: Answers) -> None:
    from sqlalchemy import text

    key = key_of("root", "greedy", "a", "p")
    with suppress(RuntimeError), ledger.keep("p", {key: said("x")}) as (connection, _):
        connection.execute(text("CREATE TABLE beside (a INTEGER)"))
        raise RuntimeError("killed")
    assert ledger.known([key]) == {}
    with pytest.raises((ValueError, DatabaseAwayError)), ledger.keep("p", {}) as (connection, _):
        connection.execute(text("SELECT * FROM beside"))


CHILD = """
import sys
from tasks.answers import key_of, opened_ledger
from tasks.predictions import Prediction
with opened_ledger(sys.argv[1], "LEDGER") as ledger:
    for start in range(0, 400, 20):
        said = {key_of("root", "greedy", str(n), ""): Prediction(sys.argv[2], "", 0.5, None, 1) for n in range(start, start + 20)}
        with ledger.keep("p", said) as (_, counted):
            pass
        print(*(answer.output for answer in counted.values()), flush=True)
"""


def test_two_jobs_at_once_agree_on_every_answer(database: str) -> None:
    jobs = [subprocess.Popen([sys.executable, "-c", CHILD, database, name], stdout=subprocess.PIPE, text=True) for name in "ab"]
    told = [job.communicate(timeout=240)[0].split() for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0]
    assert told[0] == told[1]
    assert len(told[0]) == 400


def test_after_a_kill_whole_transactions_are_there(database: str) -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD, database, "x"], stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout
        for _ in range(3):
            job.stdout.readline()
        job.send_signal(signal.SIGKILL)
    with opened_ledger(database, NAME) as ledger:
        found = ledger.known([key_of("root", "greedy", str(n), "") for n in range(400)])
    assert len(found) >= 60
    assert len(found) % 20 == 0


def test_the_ledgers_file_is_its_owners_and_beside_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ledger_url() == f"sqlite:///{tmp_path}/store-answers.sqlite"
    with opened_ledger(ledger_url(), NAME):
        pass
    assert stat.S_IMODE((tmp_path / "store-answers.sqlite").stat().st_mode) == 0o600
    monkeypatch.setenv("CLERKFLOW_STORE", "s3://bucket/prefix")
    assert ledger_url() == f"sqlite:///{tmp_path}/cache/answers.sqlite"


@pytest.mark.parametrize("url", ["canary-7171", "mysql://u:canary-7171@h/d", "sqlite://", "postgresql://u:canary-7171@h:port/d"])
def test_what_is_no_url_of_ours_is_told_without_it(url: str) -> None:
    with pytest.raises(ValueError, match="CLERKFLOW_LEDGER_URL holds no URL") as error, opened_ledger(url, NAME):
        pass
    assert "7171" not in str(error.value)


def test_a_database_that_is_away_is_told_without_secrets(postgres: str, caplog: pytest.LogCaptureFixture) -> None:
    away = "postgresql://u:canary-7171@127.0.0.1:1/d?sslmode=disable"
    wrong = postgres.replace("clerkflow:", "clerkflow:canary-7171")
    for url in (away, wrong):
        with pytest.raises(DatabaseAwayError, match=r"postgresql://127\.0\.0\.1:\d+/\w+ did not answer") as error, opened_ledger(url, NAME):
            pass
        assert "7171" not in str(error.value) + caplog.text + json.dumps(repr(error.value.__cause__))


def test_old_answers_of_one_process_are_forgotten_and_a_dry_run_only_counts(ledger: Answers) -> None:
    keys = [key_of("root", "greedy", str(number), "") for number in range(300)]
    keep(ledger, {key: said("x") for key in keys})
    before, after = (datetime.now(UTC) + timedelta(minutes=minutes) for minutes in (-1, 1))
    assert ledger.forget("p", before, dry_run=False)["objects"] == ledger.forget("other", after, dry_run=False)["objects"] == 0
    told = ledger.forget("p", after, dry_run=True)
    assert told == {"objects": 300, "bytes": 300 * len(as_json(said("x")))} and len(ledger.known(keys)) == 300
    assert ledger.forget("p", after, dry_run=False) == told
    assert not ledger.known(keys)
