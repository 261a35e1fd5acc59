"""What a run remembers, and when a stage's work is done again."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infra.store import Store, open_store
from tasks.artifacts import Artifact, scratch, store_folder
from tasks.declaration import parse_process
from tasks.process import Process
from tasks.runs import Run, begin, fingerprint_of, finish, once, versions

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def process() -> Process:
    """A process that needs no files."""
    declared = {
        "name": "toy",
        "owner": "tests",
        "records": {"source": "sample.jsonl", "columns": ["text", "queue"]},
        "sample": {"prompt": "{text}"},
        "output": {"label": "queue"},
        "gate": [{"metric": "accuracy", "at_least": 0.5}],
    }
    return parse_process(declared, "here")


class Work:
    """A stage's work that counts how often it was done."""

    def __init__(self, content: bytes = b"done") -> None:
        self.times, self.content = 0, content

    def __call__(self, store: Store, prefix: str, fingerprint: str) -> Artifact:
        self.times += 1
        with scratch() as folder:
            (folder / "result").write_bytes(self.content)
            return store_folder(store, folder, prefix, rows=2)


def story(run: Run, stage: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(open_store().read(f"{run.prefix}/stages/{stage}.json")[0])
    return found


def test_a_run_says_what_it_was_asked_and_what_came_of_it(process: Process) -> None:
    run = begin(process, "train", {"version": 1})
    artifact = Work()(open_store(), f"{run.prefix}/raw", "")
    finish(run, "refused", [artifact])
    told = json.loads(open_store().read(f"{run.prefix}/run.json")[0])
    assert (told["run"], told["flow"], told["outcome"], told["overrides"]) == (run.id, "train", "refused", {"version": 1})
    assert told["artifacts"] == [artifact.model_dump(mode="json")]
    assert told["declaration"] == process.model_dump(mode="json")
    assert told["versions"] == versions()


def test_runs_begun_in_one_second_do_not_share_a_folder(process: Process) -> None:
    assert len({begin(process, "train").prefix for _ in range(20)}) == 20


def test_work_is_done_once_and_found_by_the_next_run(process: Process) -> None:
    work, first, second = Work(), begin(process, "train"), begin(process, "train")
    made = once(first, "validation", "validated", [], {"a": 1}, work)
    found = once(second, "validation", "validated", [], {"a": 1}, work)
    assert (work.times, found) == (1, made)
    assert made.key.startswith(first.prefix)
    assert [story(run, "validation")["reused"] for run in (first, second)] == [False, True]


def test_other_settings_another_input_or_another_stage_is_other_work(process: Process) -> None:
    work, run = Work(), begin(process, "train")
    raw = once(run, "ingestion", "raw", [], {}, work)
    other = Work(b"other")(open_store(), f"{run.prefix}/other", "")
    once(run, "validation", "a", [raw], {"share": 0.5}, work)
    once(run, "validation", "b", [raw], {"share": 0.6}, work)
    once(run, "validation", "c", [other], {"share": 0.5}, work)
    once(run, "preparation", "d", [raw], {"share": 0.5}, work)
    assert work.times == 5


def test_equal_inputs_are_the_same_wherever_they_lie(process: Process) -> None:
    run = begin(process, "train")
    here, there = (Work()(open_store(), f"{run.prefix}/{name}", "") for name in ("here", "there"))
    assert here.key != there.key
    assert fingerprint_of("validation", [here], {}) == fingerprint_of("validation", [there], {})


def test_settings_in_another_order_are_the_same_settings() -> None:
    assert fingerprint_of("gate", [], {"a": 1, "b": {"c": 2, "d": 3}}) == fingerprint_of("gate", [], {"b": {"d": 3, "c": 2}, "a": 1})


@pytest.mark.parametrize("lost", ["result", "files.json"])
def test_work_whose_result_was_lost_is_done_again(process: Process, lost: str) -> None:
    work, run = Work(), begin(process, "train")
    made = once(run, "validation", "validated", [], {}, work)
    open_store().delete(made.prefix + lost)
    assert once(begin(process, "train"), "validation", "validated", [], {}, work).sha256 == made.sha256
    assert work.times == 2


def test_work_whose_result_was_damaged_is_done_again(process: Process) -> None:
    work, run = Work(), begin(process, "train")
    made = once(run, "validation", "validated", [], {}, work)
    data, _ = open_store().read(made.prefix + "result")
    open_store().write(made.prefix + "result", bytes([data[0] ^ 1]) + data[1:])
    assert once(begin(process, "train"), "validation", "validated", [], {}, work).sha256 == made.sha256
    assert work.times == 2


def test_a_memory_that_cannot_be_read_is_no_memory(process: Process) -> None:
    work = Work()
    once(begin(process, "train"), "validation", "validated", [], {}, work)
    memory = next(open_store().list("toy/stages/validation/")).key
    for damaged in (b"", b"{}", b'{"artifact": {"key": 1}}', b"[]"):
        open_store().write(memory, damaged)
        once(begin(process, "train"), "validation", "validated", [], {}, work)
    assert work.times == 5


def test_work_that_fails_is_not_remembered(process: Process) -> None:
    def fails(store: Store, prefix: str, fingerprint: str) -> Artifact:
        raise RuntimeError("half way")

    work = Work()
    with pytest.raises(RuntimeError, match="half way"):
        once(begin(process, "train"), "validation", "validated", [], {}, fails)
    once(begin(process, "train"), "validation", "validated", [], {}, work)
    assert work.times == 1


def test_changed_code_is_other_work(tmp_path: Path) -> None:
    for name in ("tasks", "infra"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    line = [sys.executable, "-c", "from tasks.runs import fingerprint_of; print(fingerprint_of('gate', [], {}))"]

    def fingerprint() -> str:
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True).stdout

    before = fingerprint()
    assert fingerprint() == before
    with (tmp_path / "tasks" / "cleaning.py").open("a") as code:
        code.write("# changed\n")
    assert fingerprint() != before
