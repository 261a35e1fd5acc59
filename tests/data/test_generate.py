"""The generator is run as a person runs it: as a script."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "data" / "processes"


def generate(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "data/generate.py", *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_the_committed_files_are_made_again_byte_for_byte(tmp_path):
    assert generate("--out", str(tmp_path)).returncode == 0
    made = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    committed = {
        path.relative_to(COMMITTED): path.read_bytes() for pattern in ("*.jsonl", "flaws.json") for path in COMMITTED.rglob(pattern)
    }
    assert sorted(made) == sorted(committed)
    assert [str(path) for path in made if made[path] != committed[path]] == []


def test_another_seed_makes_other_records_with_other_flaws(tmp_path):
    assert generate("order_intake", "--seed", "8", "--out", str(tmp_path)).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["order_intake"]
    for name in ("sample.jsonl", "flaws.json"):
        assert (tmp_path / "order_intake" / name).read_bytes() != (COMMITTED / "order_intake" / name).read_bytes()


def test_any_number_of_rows_can_be_made(tmp_path):
    assert generate("ticket_routing", "--rows", "500", "--out", str(tmp_path)).returncode == 0
    lines = (tmp_path / "ticket_routing" / "new.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 500
    assert "queue" not in json.loads(lines[0])


@pytest.mark.parametrize(
    ("words", "reason"), [(["tickets"], "no process tickets; there are: ticket_routing"), (["--rows", "5"], "at least 100")]
)
def test_a_mistake_in_the_arguments_is_told_and_nothing_is_written(tmp_path, words, reason):
    answer = generate(*words, "--out", str(tmp_path))
    assert answer.returncode == 2
    assert reason in answer.stderr
    assert list(tmp_path.iterdir()) == []
