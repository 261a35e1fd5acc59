"""A judged model becomes a version and champion, once; a refused one never does."""

import json
import random
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import save_file

from infra.settings import settings
from infra.store import Conflict, Store, open_store
from tasks.aliases import champion_of
from tasks.artifacts import Artifact, store_folder, write_json
from tasks.declaration import parse_process
from tasks.gate import RuleResult, Verdict
from tasks.publishing import begun, champion_to_meet, main_metrics, publish
from tasks.registry import fetch_version, versions_of
from tasks.runs import Run, begin, once

PASSED = Verdict(passed=True, results=(RuleResult(rule="accuracy at least 0.5", metric="accuracy", measure=0.9, passed=True, reason=""),))


@pytest.fixture
def run(store: Store) -> Run:
    """A run of a process whose shards are small, on each kind of store."""
    declared = {
        "name": "toy",
        "owner": "tests",
        "records": {"source": "sample.jsonl", "columns": ["text", "queue"]},
        "sample": {"prompt": "{text}"},
        "output": {"label": "queue"},
        "gate": [{"metric": "accuracy", "at_least": 0.5}],
        "publishing": {"shard_bytes": 4096},
    }
    return begin(parse_process(declared, "here"), "train")


def model_of(run: Run, folder: Path, seed: int = 1, **files: str) -> Artifact:
    """A stored model/ of six tensors."""
    (folder / f"model-{seed}").mkdir(parents=True)
    chance = numpy.random.default_rng(seed)
    save_file({f"layer.{n}": chance.standard_normal((16, 16)) for n in range(6)}, folder / f"model-{seed}" / "model.safetensors")
    for name, text in ({"config.json": "{}", "tokenizer.json": "{}", "contract.json": "{}", "declaration.json": "{}"} | files).items():
        (folder / f"model-{seed}" / name).write_text(text)
    return store_folder(open_store(), folder / f"model-{seed}", f"{run.prefix}/model-{seed}")


def evaluation_of(run: Run, folder: Path, champion: str | None = None) -> Artifact:
    """A stored evaluation/ against a champion."""
    name = f"evaluation-{random.randrange(10**9)}"
    metrics: dict[str, Any] = {"model": {"accuracy": 0.9, "f1.billing": 0.8, "ece": None}, "champion_version": champion}
    write_json(folder / name / "metrics.json", metrics)
    (folder / name / "reference.jsonl").write_text('{"text": "发票"}\n', encoding="utf-8")
    return store_folder(open_store(), folder / name, f"{run.prefix}/{name}")


def test_a_model_that_passed_is_champion_and_can_be_fetched_with_its_proof(run: Run, tmp_path: Path) -> None:
    model = once(run, "finetuning", "model", [], {}, lambda *_: model_of(run, tmp_path))
    assert champion_to_meet(model, run) is None
    alias = publish.fn(model, evaluation_of(run, tmp_path), PASSED, run)
    assert (alias.previous, alias.run) == (None, run.id)
    folder = fetch_version(open_store(), "toy", alias.version, settings().cache)
    assert {"config.json", "tokenizer.json", "contract.json", "reference.jsonl", "metrics.json"} <= {path.name for path in folder.iterdir()}
    assert json.loads((folder / "declaration.json").read_text()) == run.process.model_dump(mode="json")
    assert json.loads((folder / "verdict.json").read_text())["passed"] is True
    assert all(path.stat().st_size <= 4096 for path in folder.glob("*.safetensors"))


def test_another_model_meets_the_champion_and_the_champion_itself_the_one_before_it(run: Run, tmp_path: Path) -> None:
    first = once(run, "finetuning", "model", [], {"seed": 1}, lambda *_: model_of(run, tmp_path, 1))
    alias = publish.fn(first, evaluation_of(run, tmp_path), PASSED, run)
    assert champion_to_meet(first, run) is None
    second = once(run, "finetuning", "model", [], {"seed": 2}, lambda *_: model_of(run, tmp_path, 2))
    assert champion_to_meet(second, run) == alias.version
    publish.fn(second, evaluation_of(run, tmp_path, alias.version), PASSED, run)
    assert champion_to_meet(second, run) == alias.version


def test_the_manifest_says_where_the_version_came_from(run: Run, tmp_path: Path) -> None:
    model = once(run, "finetuning", "model", [], {}, lambda *_: model_of(run, tmp_path))
    publish.fn(model, evaluation_of(run, tmp_path), PASSED, run)
    manifest = versions_of(open_store(), "toy")[0]
    assert (manifest.run, manifest.created, manifest.metrics) == (run.id, begun(run), {"accuracy": 0.9})
    assert manifest.data == {"finetuning": model.sha256}
    assert manifest.verdict == PASSED.model_dump(mode="json")


def test_a_refused_model_is_not_published_even_when_asked_to(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the gate refused"):
        publish.fn(model_of(run, tmp_path), evaluation_of(run, tmp_path), Verdict(passed=False, results=()), run)
    assert list(open_store().list("toy/models/")) == []


def test_the_same_model_again_changes_nothing(run: Run, tmp_path: Path) -> None:
    model = model_of(run, tmp_path)
    first = publish.fn(model, evaluation_of(run, tmp_path), PASSED, run)
    before = {info.key: info.etag for info in open_store().list("toy/models/")}
    assert publish.fn(model, evaluation_of(run, tmp_path, first.version), PASSED, run) == first
    after = {info.key: info.etag for info in open_store().list("toy/models/")}
    assert {key: after[key] for key in before} == before
    assert len(versions_of(open_store(), "toy")) == 1


def test_a_better_model_takes_the_champions_place(run: Run, tmp_path: Path) -> None:
    first = publish.fn(model_of(run, tmp_path, 1), evaluation_of(run, tmp_path), PASSED, run)
    second = publish.fn(model_of(run, tmp_path, 2), evaluation_of(run, tmp_path, first.version), PASSED, run)
    assert (second.previous, [move.version for move in second.history]) == (first.version, [first.version, second.version])


def test_a_model_judged_against_an_old_champion_is_not_made_champion(run: Run, tmp_path: Path) -> None:
    first = publish.fn(model_of(run, tmp_path, 1), evaluation_of(run, tmp_path), PASSED, run)
    with pytest.raises(Conflict, match=f"champion is {first.version}"):
        publish.fn(model_of(run, tmp_path, 2), evaluation_of(run, tmp_path, None), PASSED, run)
    assert champion_of(open_store(), "toy") == first


@pytest.mark.parametrize("name", ["pytorch_model.bin", "modeling_toy.py", "optimizer.pt"])
def test_a_file_that_could_run_code_is_never_published(run: Run, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} cannot be published"):
        publish.fn(model_of(run, tmp_path, **{name: "x"}), evaluation_of(run, tmp_path), PASSED, run)
    assert list(open_store().list("toy/models/")) == []


def test_measures_that_are_undefined_or_of_one_label_are_not_the_main_ones() -> None:
    assert main_metrics({"model": {"accuracy": 1, "f1.a": 0.5, "perplexity": float("inf"), "ece": None}}) == {"accuracy": 1.0}


def test_a_run_is_as_old_as_its_id_says(run: Run) -> None:
    assert begun(run.model_copy(update={"id": "20240131T080910-abc123"})) == "2024-01-31T08:09:10Z"
