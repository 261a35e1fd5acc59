"""A published version must answer as the evaluated model did: the very same outputs, confidences but for their last digits."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.memory import publish_tiny, tiny_process
from infra.settings import settings
from infra.store import open_store
from tasks.generation import Predictor
from tasks.predictions import Prediction
from tasks.registry import fetch_version
from tasks.rehearsal import CLOSE, RehearsalError, answered, different, rehearse

LINE: dict[str, Any] = {"prompt": "card", "output": "refund", "completion": "refund", "confidence": 0.75, "problem": None}


class Telling:
    """A model that gives the same answer to every prompt, and keeps what it was asked at once."""

    def __init__(self, answer: Prediction) -> None:
        self.answer, self.asked = answer, list[list[str]]()

    def predict(self, prompts: list[str]) -> list[Prediction]:
        self.asked.append(list(prompts))
        return [self.answer] * len(prompts)


def test_answers_are_lines_of_all_that_a_prediction_states_asked_all_at_once() -> None:
    model: Any = Telling(Prediction({"sum": 5}, '{"sum": 5}', 0.5, None, 3))
    assert answered(model, ["a", "b"]) == [
        {"prompt": prompt, "output": {"sum": 5}, "completion": '{"sum": 5}', "confidence": 0.5, "problem": None} for prompt in ("a", "b")
    ]
    assert model.asked == [["a", "b"]]


def test_equal_answers_are_not_different_also_after_json() -> None:
    lines = [LINE, LINE | {"output": None, "problem": "unparseable"}, LINE | {"output": {"sum": 1.5, "names": ["发票", None]}}]
    assert different([json.loads(json.dumps(line)) for line in lines], lines) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "Card"},
        {"output": "invoice"},
        {"output": None},
        {"completion": "refund "},
        {"problem": "unparseable"},
        {"confidence": 0.7501},
        {"confidence": float("nan")},
    ],
    ids=str,
)
def test_one_thing_that_is_different_makes_an_answer_different(change: dict[str, Any]) -> None:
    assert different([LINE, LINE, LINE], [LINE, LINE | change, LINE]) == 1


def test_the_last_digits_of_a_confidence_may_differ() -> None:
    assert different([LINE], [LINE | {"confidence": 0.75 + CLOSE / 2}]) == 0
    assert different([LINE], [LINE | {"confidence": 0.75 - CLOSE / 2}]) == 0
    assert different([LINE], [LINE | {"confidence": 0.75 + CLOSE * 2}]) == 1


def test_fewer_answers_than_there_were_are_an_error_and_no_agreement() -> None:
    with pytest.raises(ValueError, match="shorter"):
        different([LINE, LINE], [LINE])


@pytest.fixture
def version(tmp_path: Path) -> str:
    """A published version of an untrained model of process `memory`."""
    return publish_tiny(tiny_process(), tmp_path / "version")


def proof_of(version: str, file: Path, *prompts: str) -> Path:
    """proof.jsonl as the version's model answers."""
    predictor = Predictor.load(fetch_version(open_store(), "memory", version, settings().cache))
    file.write_text("".join(json.dumps(line) + "\n" for line in answered(predictor, prompts)), encoding="utf-8")
    return file


def test_a_fresh_process_finds_a_store_that_is_named_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CLERKFLOW_STORE may be a relative path, and the fresh process is not begun in this folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLERKFLOW_STORE", "store")
    version = publish_tiny(tiny_process(), tmp_path / "version")
    assert rehearse("memory", version, proof_of(version, tmp_path / "proof.jsonl", "退款 please", "card twice")) == 2


def test_a_proof_without_answers_proves_nothing(version: str, tmp_path: Path) -> None:
    (tmp_path / "proof.jsonl").write_text("")
    with pytest.raises(RehearsalError):
        rehearse("memory", version, tmp_path / "proof.jsonl")


def test_a_rehearsal_that_takes_too_long_is_told_and_nothing_is_released(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.rehearsal.SECONDS", 0.3)
    (tmp_path / "proof.jsonl").write_text(json.dumps(LINE) + "\n")
    with pytest.raises(RehearsalError, match=f"memory {version} did not answer within 0.3 s of its download; it is not released"):
        rehearse("memory", version, tmp_path / "proof.jsonl")


def test_a_store_that_is_away_is_no_fault_of_the_version(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishing tries again then; it does not after a RehearsalError."""
    proof = proof_of(version, tmp_path / "proof.jsonl", "card twice")
    for name, value in {"STORE": "s3://bucket", "S3_ENDPOINT": "127.0.0.1:9", "S3_ACCESS_KEY": "a", "S3_SECRET_KEY": "b"}.items():
        monkeypatch.setenv(f"CLERKFLOW_{name}", value)
    with pytest.raises(ConnectionError, match="could not be downloaded to be tried"):
        rehearse("memory", version, proof)
