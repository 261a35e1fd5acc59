"""What a run did and why, as the command line says it after the code of a stage has changed."""

import shutil
from pathlib import Path

import pytest

from infra.store import Store
from tasks import stories
from tasks.artifacts import Artifact, scratch, store_folder
from tasks.declaration import load_process
from tasks.runs import begin, once
from tests.flows.conftest import Command

ROOT = Path(__file__).resolve().parents[2]


def other_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the code that stages depend on is a copy of ours, in which a line was added to one file."""
    shutil.copytree(ROOT / "tasks", folder, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "cleaning.py").open("a") as file:
        file.write("# and another line\n")
    monkeypatch.setattr(stories, "__file__", str(folder / "stories.py"))
    monkeypatch.setattr(stories, "code_digests", stories.code_digests.__wrapped__)  # not what it remembers


def work(store: Store, prefix: str, fingerprint: str) -> Artifact:
    with scratch() as folder:
        (folder / "records.jsonl").write_text("{}\n")
        return store_folder(store, folder, prefix, rows=1)


def test_after_a_change_of_code_why_names_the_file(toy: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    process = load_process("toy", toy.parent)

    def told() -> str:
        once(begin(process, "train"), "ingestion", "raw", [], {}, work)
        status, words = command("why", "toy")
        assert status == 0
        return words

    assert "it was never done before" in told()
    assert "reused" in told()
    other_code(tmp_path / "tasks", monkeypatch)
    changed = told()
    assert "code tasks/cleaning.py changed" in changed
    assert changed.count(" changed ") == 1
    assert "reused" not in changed
    assert "reused" in told()
