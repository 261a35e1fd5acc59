"""What a terminal shows: what was left out is no failure, and one long text does not bury all else."""

from pathlib import Path

import pytest

from flows import console, demo
from infra.database import ledger_url
from tasks.explaining import Link


def test_a_stage_that_nothing_is_declared_for_is_left_out_and_a_later_one_not_reached(capsys: pytest.CaptureFixture[str]) -> None:
    record = {"declaration": {"name": "toy"}, "flow": "train", "run": "r"}
    story = {"reused": False, "seconds": 1.0, "why": ["first"]}
    console.show_why(record, {"a": story, "c": story}, ["a", "b", "c", "d"])
    rows = [line.split("│")[1:3] for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert [(stage.strip(), was.strip()) for stage, was in rows] == [("a", "done"), ("b", "left out"), ("c", "done"), ("d", "not reached")]


def test_of_a_long_text_the_beginning_is_shown_and_how_long_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_chain([Link("record", {"content": "x" * 1_000_000, "reason": "input_outside"})])
    said = capsys.readouterr().out
    assert len(said) < 10_000
    assert "1,000,000" in said
    assert "input_outside" in said


def test_the_demo_has_the_ledger_that_the_commands_at_its_end_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CLERKFLOW_STORE", "CLERKFLOW_CACHE", "CLERKFLOW_LEDGER_URL", "PREFECT_HOME", "PREFECT_API_URL"):
        monkeypatch.setenv(name, f"sqlite:///{tmp_path}/other")
    monkeypatch.setattr(demo, "FOLDER", tmp_path / "demo")
    (tmp_path / "demo-answers.sqlite").write_text("of the demo before")
    demo._own_store()
    assert ledger_url() == f"sqlite:///{tmp_path}/demo-answers.sqlite"
    assert not (tmp_path / "demo-answers.sqlite").exists()
