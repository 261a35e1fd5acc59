"""Evaluation: model/, samples/test and the champion -> metrics.json, report.html, plots/, predictions.jsonl, reference.jsonl, proof.jsonl.

The model, the champion and the baselines answer the same test prompts and are measured by the same functions. Texts are
asked once a prompt: all right texts of a prompt are references of one case.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from datasets import load_from_disk
from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.settings import settings
from infra.store import Store
from tasks import automation, plots
from tasks.artifacts import Artifact, fetch_file, fetch_folder, scratch, store_folder, write_json
from tasks.automation import certify_answers, choosing_cases, learn_scope, notes_on, text_in
from tasks.baselines import CLASSES, TRAIN_ROWS, baseline_answers, sampled
from tasks.batching import Row
from tasks.cases import Test, ask, cases_of, chunks
from tasks.certificate import Certificate
from tasks.engines import choose
from tasks.features import monitoring_row, watches_texts
from tasks.generation import Predictor, token_losses
from tasks.metrics import (
    Answers,
    Bin,
    Case,
    bleu_tokenizer,
    confusion,
    correct,
    main_metrics,
    measure,
    measure_slices,
    per_class,
    per_field,
    reliability,
)
from tasks.predictions import Prediction
from tasks.process import Process
from tasks.prompts import completion_of
from tasks.registry import fetch_version
from tasks.rehearsal import answered
from tasks.report import Picture, report
from tasks.runs import Run, once
from tasks.scope import Scope
from tasks.tabular import CHARACTERS
from tasks.tokenising import Sample

PROOF = 32  # test prompts that a published version is asked again
SECTIONS = ("name", "owner", "version", "description", "records", "output", "sample", "automation")


# Asking


def losses_of(predictor: Predictor, test: Test) -> list[tuple[float, int]]:
    """Nats and tokens of each row's right completion."""
    found: list[tuple[float, int]] = []
    for chunk in chunks(range(len(test.rows))):
        rows = [test.rows[index] for index in chunk]
        found += token_losses(predictor, [Row(row["input_ids"], row["prompt_tokens"], row["marks"]) for row in rows])
    return found


def champion_losses(champion: Predictor, test: Test, ours: Sequence[tuple[float, int]]) -> list[tuple[float, int]] | None:
    """The champion's nats for the same completions, over the model's own count of tokens, else two vocabularies could not be compared.

    Returns:
        None when the champion cannot score a completion that the model scored, such as a label it does not know.
    """
    found: list[tuple[float, int]] = []
    for chunk in chunks(range(len(test.rows))):
        try:
            encoded = _as_taught(champion, [test.rows[index] for index in chunk])
        except KeyError:
            return None
        scored = token_losses(champion, encoded)
        for index, (nats, tokens) in zip(chunk, scored, strict=True):
            if ours[index][1] and not tokens:
                return None
            found.append((nats if ours[index][1] else 0.0, ours[index][1]))
    return found


def _as_taught(champion: Predictor, rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The samples as the champion was taught its own, in its own tokens."""
    samples = []
    for row in rows:
        inputs, output = json.loads(row["inputs"]), json.loads(row["output"])
        prompt, completion = champion.prompt_of(inputs), completion_of(champion.process, output)
        samples.append(Sample(row["record_id"], prompt, completion, output, inputs, {}, ""))
    encoded = champion.encoder.encode(samples)
    return [Row([*prompt, *completion], len(prompt), marks) for prompt, completion, marks in encoded]


def answers_of(predictions: Sequence[Prediction], losses: Sequence[tuple[float, int]] | None, test: Test) -> Answers:
    """Predictions as they are measured; the losses of a case's rows are added up."""
    summed = None
    if losses is not None:
        summed = [(math.fsum(losses[index][0] for index in group), sum(losses[index][1] for index in group)) for group in test.members]
    return Answers([each.output for each in predictions], [each.confidence for each in predictions], summed)


# Measuring


@dataclass(frozen=True, slots=True)
class Judged:
    """What was asked of whom, before it is measured."""

    predictions: list[Prediction]
    model: Answers
    champion: Answers | None
    baselines: dict[str, Answers]
    proof: list[dict[str, Any]]
    engine: dict[str, Any]
    certificate: Certificate | None = None
    scope: Scope | None = None


def answers_of_all(model: Path, test: Test, choosing: Test | None, train: Any, champion: Path | None, process: Process) -> Judged:
    """Ask the model, the champion and the baselines, one after the other.

    Args:
        choosing: validation cases, when answers are to be accepted without a person.
    """
    predictor, certificate, accepted = Predictor.load(model), None, None
    engine = choose(predictor, model, process.scoring.engine, proof_prompts(test))
    predictions = ask(predictor, test, lambda row: str(row["prompt"]))
    losses = losses_of(predictor, test)
    proof = answered(predictor, proof_prompts(test))
    scope = learn_scope(process, (text_in(process, row) for row in train))
    if choosing:
        certificate, accepted = certify_answers(predictor, scope, choosing, test, predictions, lambda row: str(row["prompt"]), process)
    del predictor  # two models need not be in memory at once
    baselines = baseline_answers(
        process.output.kind, sampled(train, process.sample.seed), test.rows.select([group[0] for group in test.members]), process
    )
    return Judged(
        predictions,
        replace(answers_of(predictions, losses, test), accepted=accepted),
        champion_answers(champion, test, choosing, losses, process) if champion else None,
        baselines,
        proof,
        engine,
        certificate,
        scope,
    )


def proof_prompts(test: Test) -> list[str]:
    """Prompts spread over the test split, to which the published bytes must give the very same answers."""
    count = len(test.members)
    chosen = sorted({number * count // PROOF for number in range(PROOF)}) if count else []
    return [str(test.rows[test.members[case][0]]["prompt"]) for case in chosen]


def champion_answers(
    folder: Path, test: Test, choosing: Test | None, ours: Sequence[tuple[float, int]], process: Process
) -> Answers | None:
    """What the champion says to the same records, asked in its own words; None when it gives another kind of output.

    What it may accept is certified anew, on the same records and terms as the model's: two rates are compared at one risk.
    """
    champion = Predictor.load(folder)
    if champion.process.output.kind != process.output.kind:
        return None

    def prompt_of(row: Mapping[str, Any]) -> str:
        return champion.prompt_of(json.loads(row["inputs"]))

    predictions = ask(champion, test, prompt_of)
    answers = answers_of(predictions, champion_losses(champion, test, ours), test)
    if choosing is None:
        return answers
    _, accepted = certify_answers(champion, Scope.load(folder), choosing, test, predictions, prompt_of, process)
    return replace(answers, accepted=accepted)


def metrics_of(process: Process, test: Test, judged: Judged, version: str | None, counts: Mapping[str, int]) -> dict[str, Any]:
    """Everything of metrics.json; a champion that could not be asked has no measures, and so fails the rules that need it."""
    kind, cases = process.output.kind, test.cases

    def both(answers: Answers) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        return measure(kind, cases, answers), measure_slices(kind, cases, answers)

    model, slices = both(judged.model)
    baselines = {name: both(answers) for name, answers in judged.baselines.items()}
    champion = (both(judged.champion) if judged.champion else ({}, {})) if version is not None else (None, None)
    return _parts(kind, cases, judged.model.outputs) | {
        "model": model,
        "slices": slices,
        "champion": champion[0],
        "champion_slices": champion[1],
        "champion_version": version,
        "baselines": {name: found for name, (found, _) in baselines.items()},
        "baseline_slices": {name: found for name, (_, found) in baselines.items()},
        "engine": judged.engine,
        "baseline_train_rows": min(counts["train"], TRAIN_ROWS),
        "reliability": [asdict(part) for part in reliability_of(kind, cases, judged.model)],
        "counts": dict(counts) | {"cases": len(cases)},
    }


def _parts(kind: str, cases: Sequence[Case], outputs: Sequence[Any | None]) -> dict[str, Any]:
    """What metrics.json says of one kind of output only."""
    if kind == "label":
        return {"per_class": per_class(cases, outputs), "confusion": confusion(cases, outputs)}
    return {"per_field": per_field(cases, outputs)} if kind == "fields" else {"bleu_tokenizer": bleu_tokenizer(cases)}


def reliability_of(kind: str, cases: Sequence[Case], answers: Answers) -> list[Bin]:
    """Bins of confidence against being wholly right; none for text, where confidence is no chance of that."""
    if kind == "text" or answers.confidences is None:
        return []
    return reliability(answers.confidences, correct(kind, cases, answers.outputs))


def notes_of(metrics: Mapping[str, Any], kind: str, training: Mapping[str, Any]) -> list[str]:
    """How the figures came about.

    Args:
        training: what training.json says.
    """
    counts = metrics["counts"]
    notes = [
        f"Baselines learned from {metrics['baseline_train_rows']} of {counts['train']} training samples, "
        f"at most {CHARACTERS} characters of each and the {CLASSES} most frequent classes.",
        "An unanswered sample counts as wrong. A measure that has no meaning, such as a share of nothing, is left out.",
    ]
    if kind == "text":
        notes.append(
            f"{counts['test']} samples have {counts['cases']} different prompts; each was asked once, with all right texts as references."
        )
        notes.append(
            f"BLEU and chrF are sacrebleu's, 0-100; BLEU's tokenizer is {metrics['bleu_tokenizer']}, "
            "and that of a slice is chosen by the slice's own texts."
        )
    if made := training.get("synthetic"):
        notes.append(
            f"The model learned from {made['rows']} synthetic samples, too: columns of training samples, mixed, with the "
            f"chances that {made['teacher'].replace('_', ' ')} gave to each label, which had learned from the training samples."
        )
    if both := training.get("linear"):
        notes.append(
            "A regression on words of the training samples answers together with the model: on validation the loss of both is "
            f"{both['loss']:.3f} nats{' a token' if kind == 'fields' else ''}, that of the model alone {both['loss_alone']:.3f}."
        )
    if metrics["champion"] and "perplexity" in metrics["champion"]:
        notes.append("The champion's perplexity is over the new model's tokens, so that two vocabularies can be compared.")
    return notes


def plots_of(metrics: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, Picture]:
    """File name -> plot, for what there is to plot."""
    found = {}
    if history := training.get("history"):
        found["learning_curve.png"] = Picture(plots.learning_curve(history, training.get("best_step")), "Learning curve")
    if "confusion" in metrics:
        alt = "Confusion matrix: counts of true (rows) and predicted (columns) labels, shaded by the share of the row"
        legend = plots.legend_of(metrics["confusion"]["rows"])
        found["confusion.png"] = Picture(plots.confusion_matrix(metrics["confusion"]), alt, legend)
    if metrics.get("per_field"):
        legend = plots.legend_of(plots.shown_fields(metrics["per_field"]))
        found["fields.png"] = Picture(plots.field_bars(metrics["per_field"]), "Precision, recall and F1 of each field", legend)
    if metrics["reliability"]:
        bins = [Bin(**part) for part in metrics["reliability"]]
        alt = "Reliability: share of right answers against confidence, with the number of test samples at each point"
        found["reliability.png"] = Picture(plots.reliability_diagram(bins), alt)
    return found


# Writing


def prediction_lines(test: Test, judged: Judged, kind: str) -> Iterator[dict[str, Any]]:
    """One line a test sample, in the split's order."""
    right = correct(kind, test.cases, judged.model.outputs)
    case_of = {index: case for case, group in enumerate(test.members) for index in group}
    for index in range(len(test.rows)):
        each = judged.predictions[case_of[index]]
        line = {"record_id": test.rows[index]["record_id"], "output": each.output, "completion": each.completion}
        yield line | {"confidence": each.confidence, "correct": right[case_of[index]], "problem": each.problem}


def reference_lines(test: Test, judged: Judged, process: Process) -> Iterator[dict[str, Any]]:
    """The monitoring row of every test sample: what later batches are compared with."""
    case_of = {index: case for case, group in enumerate(test.members) for index in group}
    for index in range(len(test.rows)):
        row = test.rows[index]
        yield monitoring_row(process, json.loads(row["inputs"]), row["prompt"], judged.predictions[case_of[index]])


def write_evaluation(
    model: Path, samples: Path, champion: Path | None, version: str | None, process: Process, folder: Path
) -> dict[str, Any]:
    """Every file of evaluation/ below `folder`.

    Args:
        model: model/.
        samples: samples/ with test/, validation/, train/ and report.json.
        champion: folder of the published version to compare with, and its id; None when there is none.

    Returns:
        What metrics.json says.
    """
    test = cases_of(process, load_from_disk(str(samples / "test")))
    choosing = choosing_cases(process, load_from_disk(str(samples / "validation"))) if process.automation else None
    judged = answers_of_all(model, test, choosing, load_from_disk(str(samples / "train")), champion, process)
    metrics = metrics_of(process, test, judged, version, _counts(samples))
    training = json.loads((model / "training.json").read_text(encoding="utf-8"))
    pictures = plots_of(metrics, training)
    write_json(folder / "metrics.json", metrics)
    _write_lines(folder / "predictions.jsonl", prediction_lines(test, judged, process.output.kind))
    _write_lines(folder / "proof.jsonl", judged.proof)
    _write_lines(folder / "reference.jsonl", reference_lines(test, judged, process))
    (folder / "plots").mkdir()
    for name, picture in pictures.items():
        (folder / "plots" / name).write_bytes(picture.png)
    notes = notes_of(metrics, process.output.kind, training)
    if judged.certificate:
        automation.keep(judged.certificate, judged.scope, folder)
        notes = [*notes_on(process, judged.certificate), *notes]
    page = report(process, metrics, list(pictures.values()), notes)
    (folder / "report.html").write_text(page, encoding="utf-8")
    return metrics


def _counts(samples: Path) -> dict[str, int]:
    splits = json.loads((samples / "report.json").read_text(encoding="utf-8"))["splits"]
    return {name: splits[name]["samples"] for name in ("train", "validation", "test")}


def _write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for line in lines:
            stream.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")


def _fetch_samples(store: Store, samples: Artifact, folder: Path) -> Path:
    for below in ("train/", "validation/", "test/"):
        fetch_folder(store, samples, folder, below)
    fetch_file(store, samples, "report.json", folder)
    return folder


@task(task_run_name="evaluate-{run.process.name}", cache_policy=NO_CACHE)
def evaluate(model: Artifact, samples: Artifact, champion: str | None, run: Run) -> Artifact:
    """model/, samples/test and the champion -> evaluation/."""
    process = run.process
    settled = process.part(*SECTIONS) | {"engine": process.scoring.engine, "champion": champion, "texts": watches_texts(process)}

    def work(store: Store, prefix: str, fingerprint: str) -> Artifact:
        with scratch() as folder:
            published = fetch_version(store, process.name, champion, settings().cache) if champion else None
            fetched = fetch_folder(store, model, folder / "model"), _fetch_samples(store, samples, folder / "samples")
            metrics = write_evaluation(*fetched, published, champion, process, folder / "evaluation")
            names = [name for name in main_metrics(process.output.kind) if name in metrics["model"]]
            facts = {name: round(metrics["model"][name], 4) for name in names}
            return store_folder(store, folder / "evaluation", prefix, rows=metrics["counts"]["test"], **facts)

    return once(run, "evaluation", "evaluation", [model, samples], settled, work)
