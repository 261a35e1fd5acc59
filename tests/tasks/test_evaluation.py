"""Evaluation: a real small model, its champion and the baselines on the same test split."""

import json
from pathlib import Path
from typing import Any

import pytest

from infra.store import LocalStore, open_store
from tasks.artifacts import Artifact, fetch_folder, listing_of, read_json, store_folder
from tasks.cases import cases_of
from tasks.certificate import read_certificate
from tasks.checkpoints import Checkpoints
from tasks.evaluation import evaluate, write_evaluation
from tasks.facts import facts_of
from tasks.finetuning import train_model
from tasks.gate import judge
from tasks.preparation import write_samples
from tasks.process import Process, Rule
from tasks.publishing import publish
from tasks.records import Record
from tasks.runs import Run, begin
from tasks.scope import Scope
from tasks.terms import Automation

LABELS = {"card lost": "card", "card gone": "card", "invoice due": "bill", "pay invoice": "bill", "卡丢了": "card", "发票": "bill"}


def process(output: dict[str, Any], **records: Any) -> Process:
    tiny = {"size": {"n_layer": 1, "n_embd": 16, "n_head": 2}, "max_length": 64, "num_train_epochs": 1, "evaluations": 1}
    declared = {
        "name": "tiny",
        "owner": "tests",
        "records": {"source": "a.jsonl", "validation": "b.jsonl", "test": "c.jsonl", "slices": ["language"], **records},
        "sample": {"prompt": "{text}", "near_duplicates": None, "vocabulary_size": 300},
        "output": output,
        "finetuning": {**tiny, "learning_rate": 0.01},
        "gate": [{"metric": "answered", "at_least": 0}],
    }
    return Process.model_validate(declared)


def records(rows: list[dict[str, Any]]) -> list[Record]:
    """Each row three times, a little changed, once for each side of the split."""
    sides = ("", "validation", "test")
    return [
        Record(f"{number}{side}", row | {"text": f"{row['text']} {index}"}, "a.jsonl", number, (), side)
        for number, row in enumerate(rows)
        for index, side in enumerate(sides)
    ]


def made(declared: Process, rows: list[dict[str, Any]], folder: Path) -> tuple[Path, Path]:
    """model/ and samples/ of these rows."""
    folder.mkdir(parents=True)
    (folder / "working").mkdir()
    write_samples(declared, records(rows), folder / "samples", folder / "working")
    train_model(declared, folder / "samples", folder / "model", Checkpoints(LocalStore(folder / "store"), "c"))
    return folder / "model", folder / "samples"


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


ROUTES = [{"text": text, "queue": label, "language": "en" if text.isascii() else "zh"} for text, label in LABELS.items()]
FORMS = [{"text": f"{count} pens for {name}", "count": count, "name": name, "language": "en"} for count, name in ((3, "Al"), (5, "Bo"))]
REPORTS = [{"text": text, "answer": f"it costs {text}", "language": "en"} for text in ("7", "8")]
OUTPUTS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "label": ({"label": "queue"}, ROUTES),
    "fields": ({"fields": {"count": {"type": "integer", "verbatim": True}, "name": {"verbatim": True}}}, FORMS),
    "text": ({"text": "answer"}, REPORTS),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_every_file_is_written_for_each_kind_of_output_and_twice_the_same(kind: str, tmp_path: Path) -> None:
    output, rows = OUTPUTS[kind]
    model, samples = made(declared := process(output), rows, tmp_path / "made")
    for name in ("first", "again"):
        (tmp_path / name).mkdir()
        metrics = write_evaluation(model, samples, None, None, declared, tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*") if path.is_file())
    assert all((tmp_path / "first" / path).read_bytes() == (tmp_path / "again" / path).read_bytes() for path in files)
    named = {"report.html", "metrics.json", "predictions.jsonl", "reference.jsonl", "plots/learning_curve.png"}
    assert named <= {path.as_posix() for path in files}
    assert metrics["model"]["perplexity"] >= 1
    assert metrics["champion"] is None
    assert metrics["engine"]["name"] == ("ctranslate2" if kind == "text" else "transformers")
    assert metrics["counts"]["test"] == len(rows)
    predictions = lines_of(tmp_path / "first" / "predictions.jsonl")
    assert [line["record_id"] for line in predictions] == [f"{number}test" for number in range(len(rows))]
    assert len(lines_of(tmp_path / "first" / "reference.jsonl")) == len(rows)
    assert {part["count"] for name, part in metrics["slices"].items() if name == "language=en"} == {
        sum(row["language"] == "en" for row in rows)
    }


def test_a_prompt_with_several_right_texts_is_asked_once() -> None:
    declared = process({"text": "answer", "references": "others", "facts": ["fee"]}, columns=["fee"])
    row = {"inputs": json.dumps({"text": "price", "fee": "15元"}), "slices": "{}", "prompt": "price"}
    answers = (["15元", "要15元"], ["15元。"])
    test = cases_of(declared, [row | {"output": json.dumps(texts[0]), "references": json.dumps(texts)} for texts in answers])
    assert test.members == [[0, 1]]
    assert test.cases[0].references == ("15元", "要15元", "15元。")
    assert test.cases[0].facts == ("15元",)


def test_facts_are_every_input_value_unless_declared() -> None:
    inputs = {"text": {"name": "Blue", "tags": ["a", 2], "open": True, "none": None, "empty": ""}, "side": "no"}
    assert list(facts_of(process({"text": "answer"}), inputs)) == ["Blue", "a", "2"]
    declared = process({"text": "answer", "facts": ["text.open", "text.gone"]})
    assert list(facts_of(declared, inputs)) == ["yes"]


@pytest.fixture
def life(tmp_path: Path) -> tuple[Run, Artifact, Artifact]:
    """A run with its model and samples in the store."""
    run = begin(process({"label": "queue"}), "train")
    model, samples = made(run.process, ROUTES, tmp_path / "made")
    store = open_store()
    return run, store_folder(store, model, f"{run.prefix}/model"), store_folder(store, samples, f"{run.prefix}/samples")


def test_the_same_model_as_champion_measures_the_same(life: tuple[Run, Artifact, Artifact]) -> None:
    run, model, samples = life
    first = evaluate.fn(model, samples, None, run)
    assert {"accuracy", "macro_f1", "auc", "ece", "answered", "perplexity"} == set(first.facts)
    metrics = read_json(open_store(), first, "metrics.json")
    alias = publish.fn(model, first, judge(run.process.gate.rules, metrics), run)
    again = read_json(open_store(), evaluate.fn(model, samples, alias.version, run), "metrics.json")
    assert again["champion"] == pytest.approx(again["model"])
    assert again["champion_slices"] == again["slices"]
    assert again["champion_version"] == alias.version
    assert again["model"] == metrics["model"]


def test_a_champion_of_another_kind_has_no_measures(life: tuple[Run, Artifact, Artifact], tmp_path: Path) -> None:
    run, model, samples = life
    form, _ = made(process(OUTPUTS["fields"][0]), FORMS, tmp_path / "form")
    folders = [fetch_folder(open_store(), artifact, tmp_path / name) for artifact, name in ((model, "m"), (samples, "s"))]
    (tmp_path / "out").mkdir()
    metrics = write_evaluation(*folders, form, "v1", run.process, tmp_path / "out")
    assert metrics["champion"] == {}
    assert metrics["champion_version"] == "v1"


def test_no_text_of_a_record_is_in_metrics_or_page(life: tuple[Run, Artifact, Artifact]) -> None:
    run, model, samples = life
    evaluation = evaluate.fn(model, samples, None, run)
    store = open_store()
    assert "plots/confusion.png" in listing_of(store, evaluation)
    for name in ("metrics.json", "report.html"):
        text = store.read(evaluation.prefix + name)[0].decode()
        assert not [shown for shown in LABELS if f"{shown} 2" in text]


def test_a_certificate_is_kept_and_the_champion_is_certified_on_the_same_records(tmp_path: Path) -> None:
    declared = process({"label": "queue"}).model_copy(update={"automation": Automation(max_error=0.6, confidence=0.5, out_of_scope=None)})
    model, samples = made(declared, ROUTES, tmp_path / "made")
    (tmp_path / "evaluation").mkdir()
    metrics = write_evaluation(model, samples, model, "v1", declared, tmp_path / "evaluation")
    certificate = read_certificate(tmp_path / "evaluation")
    assert certificate is not None and certificate.measured is not None
    assert sum(each.rows for each in certificate.thresholds) + certificate.measured.rows == metrics["counts"]["cases"]
    rate = certificate.measured.accepted / certificate.measured.rows
    assert metrics["model"]["straight_through_rate"] == metrics["champion"]["straight_through_rate"] == rate
    assert "straight_through_rate" in (tmp_path / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert judge([Rule(metric="straight_through_rate", below_champion_at_most=0.0)], metrics).passed
    assert not judge([Rule(metric="straight_through_rate", at_least=1.01)], metrics).passed


def test_nothing_is_certified_on_few_records_and_everything_goes_to_review(tmp_path: Path) -> None:
    declared = process({"label": "queue"}).model_copy(update={"automation": Automation(max_error=0.01)})
    model, samples = made(declared, ROUTES, tmp_path / "made")
    (tmp_path / "evaluation").mkdir()
    metrics = write_evaluation(model, samples, None, None, declared, tmp_path / "evaluation")
    certificate = read_certificate(tmp_path / "evaluation")
    assert certificate is not None
    assert [each.threshold for each in certificate.thresholds] == [None]
    assert metrics["model"]["straight_through_rate"] == 0
    assert certificate.scope is not None and Scope.load(tmp_path / "evaluation") is not None
    assert "all go to review" in (tmp_path / "evaluation" / "report.html").read_text(encoding="utf-8")
