"""A declared compression within a training: taken when its gate passes, left when not, published and used as any model."""

import json
from pathlib import Path
from typing import Any

import ctranslate2
import pytest
import yaml
from transformers import AutoTokenizer

from flows.train import train
from infra.store import open_store
from tasks.aliases import champion_of
from tasks.declaration import load_process
from tasks.registry import fetch_version, read_manifest
from tests.flows.conftest import Command, tickets, write_rows

STUDENT = {"n_layer": 1, "n_embd": 24, "n_head": 2}


def declare(folder: Path, **parts: Any) -> None:
    path = folder / "process.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | parts, sort_keys=False, allow_unicode=True))


def published(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The champion's folder and its compression.json."""
    store, name = open_store(), load_process(folder.name, folder.parent).name
    alias = champion_of(store, name)
    assert alias
    version = fetch_version(store, name, alias.version, folder / "cache")
    assert read_manifest(store, name, alias.version).made_from.key.endswith("compressed/files.json")
    return version, json.loads((version / "compression.json").read_text())


def test_a_student_that_is_as_good_takes_its_teachers_place(toy: Path, command: Command) -> None:
    declare(toy, compression={"student": STUDENT, "gate": [{"metric": "accuracy", "at_most": 0.1}]})
    assert train("toy").became == "published"
    version, story = published(toy)
    assert story["tried"]["student"]["passed"]
    assert story["parameters"] == story["tried"]["student"]["parameters"] < story["parameters_before"]
    assert json.loads((version / "config.json").read_text())["n_embd"] == 24
    told = command("export", "toy", "champion", str(toy / "out"), "--format", "ctranslate2", "--quantization", "int8")[1]
    assert "warning: no gate has judged it with int8" in told
    assert train("toy").became == "published"  # again without a change: the same version, nothing is done anew
    assert published(toy)[0] == version
    new = write_rows(toy / "new.jsonl", [{"id": row["id"], "text": row["text"]} for row in tickets(20, 5)])
    status, told = command("score", "toy", "--input", str(new))
    assert status == 0, told


def test_a_student_that_is_worse_is_left(toy: Path) -> None:
    blurred = {"student": STUDENT, "teacher_weight": 1.0, "temperature": 1000.0, "gate": [{"metric": "accuracy", "at_most": 0.0}]}
    declare(toy, compression=blurred)
    assert train("toy").became == "published"
    version, story = published(toy)
    assert not story["tried"]["student"]["passed"]
    assert story["tried"]["student"]["reasons"][0].startswith("accuracy went from 1 to 0.")
    assert story["parameters"] == story["parameters_before"]
    assert json.loads((version / "config.json").read_text())["n_embd"] == 32


@pytest.fixture
def writing(toy: Path) -> Path:
    """The same process as one that writes the queue's name as a text."""
    declare(
        toy,
        output={"text": "queue"},
        gate=[{"metric": "exact_match", "at_least": 0.0}],
        drift={"columns": ["queue"], "min_records": 50},
        compression={"quantization": "int8", "gate": [{"metric": "exact_match", "at_most": 0.2}]},
    )
    return toy


def test_int8_weights_are_published_and_exported_where_they_are_good_enough(writing: Path, command: Command, tmp_path: Path) -> None:
    assert train("toy").became == "published"
    version, story = published(writing)
    assert story["tried"]["int8"]["passed"]
    assert json.loads((version / "metrics.json").read_text())["engine"]["quantization"] == "int8"

    status, told = command("export", "toy", "champion", str(tmp_path / "small"), "--format", "ctranslate2")
    assert status == 0 and "warning" not in told, told
    assert command("export", "toy", "champion", str(tmp_path / "full"), "--format", "ctranslate2", "--quantization", "float32")[0] == 0
    small, full = ((tmp_path / name / "model.bin").stat().st_size for name in ("small", "full"))
    assert small < 0.6 * full
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "small")
    prompt = tokenizer.tokenize(f"Message: {tickets(1, 9)[0]['text']}\nQueue:")
    written = ctranslate2.Generator(str(tmp_path / "small")).generate_batch([prompt], max_length=8, include_prompt_in_result=False)
    assert tokenizer.decode(written[0].sequences_ids[0]).strip() in {row["queue"] for row in tickets(50, 1)}

    status, told = command("export", "toy", "champion", str(tmp_path / "wrong"), "--quantization", "int8")
    assert status == 2
    assert "--quantization belongs to --format ctranslate2" in told
    assert not (tmp_path / "wrong").exists()


def test_a_student_that_is_no_smaller_is_left(toy: Path) -> None:
    large = {"student": {"n_layer": 1, "n_embd": 40, "n_head": 2}, "gate": [{"metric": "accuracy", "at_most": 1.0}]}
    declare(toy, compression=large)
    assert train("toy", dry_run=True).became == "tried"
    (info,) = [info for info in open_store().list("toy/runs/") if info.key.endswith("compressed/compression.json")]
    story = json.loads(open_store().read(info.key)[0])
    assert not story["tried"]["student"]["passed"]
    assert "weights, the tuned model" in story["tried"]["student"]["reasons"][-1]
