"""Compression: model/ -> model/, smaller or faster, where the declared measures bear it; compression.json says what was tried.

Judged on the validation split, which chose nothing but when training stops; the test split stays for the evaluation of what is left.
"""

import json
import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import load_from_disk
from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.store import Store, open_store
from tasks.artifacts import Artifact, fetch_folder, scratch, store_folder, write_json
from tasks.cases import Test, ask, cases_of
from tasks.checkpoints import Checkpoints
from tasks.engines import choose
from tasks.finetuning import SECTIONS, fetch_samples, trainer_of
from tasks.generation import Predictor
from tasks.joining import join
from tasks.metrics import LOWER_IS_BETTER, TOLERANCE, Answers, measure
from tasks.process import Process
from tasks.runs import Run, fingerprint_of, once
from tasks.tuning import Loss

logger = logging.getLogger(__name__)

STAGE = "compression"
KEPT = "compression.json"
FIRST = 8  # prompts on which CTranslate2 is compared with transformers; in earnest when the model is evaluated


def judge(gate: tuple[Loss, ...], before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, Any]:
    """Whether a compressed model is good enough: every rule, the measures of both, and why not; what nobody measured is refused."""
    reasons, shown = [], {}
    for loss in gate:
        pair = before.get(loss.metric), after.get(loss.metric)
        shown[loss.metric] = pair
        if pair[0] is None or pair[1] is None:
            reasons.append(f"the validation split gives no {loss.metric}")
            continue
        worse = pair[1] - pair[0] if loss.metric in LOWER_IS_BETTER else pair[0] - pair[1]
        if not worse <= loss.at_most + TOLERANCE:  # NaN is refused
            reasons.append(f"{loss.metric} went from {pair[0]:.4g} to {pair[1]:.4g}, which is worse by more than {loss.at_most:g}")
    return {"passed": not reasons, "measures": shown, "reasons": reasons}


def measured(predictor: Predictor, validation: Test) -> tuple[dict[str, float], float]:
    """Every measure on the validation split, and the seconds of asking."""
    kind, began = predictor.process.output.kind, time.perf_counter()
    predictions = ask(predictor, validation, lambda row: str(row["prompt"]))
    seconds = time.perf_counter() - began
    answers = Answers([each.output for each in predictions], [each.confidence for each in predictions])
    return measure(kind, validation.cases, answers), seconds


def compress_model(process: Process, model: Path, samples: Path, folder: Path, checkpoints: Checkpoints) -> dict[str, Any]:
    """Try what is declared, one after the other, and write the last model that passed, with compression.json.

    Args:
        model: model/ as it was tuned.
        samples: folder with train/, validation/, tokenizer/ and contract.json.
        folder: where the model/ is written that goes on.

    Returns:
        For people: weights before and after, what passed, and how many times faster it answers.
    """
    declared = process.compression
    if declared is None:
        raise ValueError(f"{process.name} declares no compression")
    validation = cases_of(process, load_from_disk(str(samples / "validation")))
    before, slow = measured(_asked(model, process, validation), validation)
    tried, fast, best = {}, slow, model
    if declared.student:
        student = folder.with_name("student")
        trainer_of(process)(process, samples, student, checkpoints, teacher=model)
        join(process, samples, student)
        tried["student"], seconds = _tried(student, process, validation, before)
        if (size := _parameters(student)) >= _parameters(model):
            more = f"it has {size:,} weights, the tuned model {_parameters(model):,}"
            tried["student"] |= {"passed": False, "reasons": [*tried["student"]["reasons"], more]}
        best, fast = (student, seconds) if tried["student"]["passed"] else (best, fast)
    shutil.copytree(best, folder)
    if declared.quantization:
        _quantize(folder, declared.quantization)
        tried[declared.quantization], seconds = _tried(folder, process, validation, before)
        if tried[declared.quantization]["passed"]:
            fast = seconds
        else:
            _quantize(folder, None)
    weights = {"parameters_before": _parameters(model), "parameters": _parameters(folder)}
    write_json(folder / KEPT, weights | {"before": before, "tried": tried})
    passed = ", ".join(name for name, each in tried.items() if each["passed"]) or "nothing"
    return weights | {"passed": passed, "times_faster": round(slow / max(fast, 1e-9), 2)}


def _asked(folder: Path, process: Process, validation: Test) -> Predictor:
    """A model as it will answer: through the engine that the evaluation will choose."""
    predictor = Predictor.load(folder)
    choose(predictor, folder, process.scoring.engine, [str(validation.rows[group[0]]["prompt"]) for group in validation.members[:FIRST]])
    return predictor


def _tried(folder: Path, process: Process, validation: Test, before: Mapping[str, float]) -> tuple[dict[str, Any], float]:
    """A compressed model against the gate, and the seconds it took to answer."""
    after, seconds = measured(_asked(folder, process, validation), validation)
    verdict = judge(process.compression.gate if process.compression else (), before, after)
    if not verdict["passed"]:
        logger.warning("%s: a compressed model is not taken: %s", process.name, "; ".join(verdict["reasons"]))
    return verdict | {"parameters": _parameters(folder), "after": after}, seconds


def _quantize(folder: Path, quantization: str | None) -> None:
    """Have a model written with quantized weights from now on, or no longer."""
    contract = json.loads((folder / "contract.json").read_text(encoding="utf-8"))
    contract.pop("quantization", None)
    write_json(folder / "contract.json", contract | ({"quantization": quantization} if quantization else {}))


def _parameters(folder: Path) -> int:
    found: int = json.loads((folder / "training.json").read_text(encoding="utf-8"))["parameters"]
    return found


@task(task_run_name="compress-{run.process.name}", cache_policy=NO_CACHE)
def compress(model: Artifact, samples: Artifact, run: Run) -> Artifact:
    """model/ -> model/; the very same where no compression is declared."""
    process = run.process
    if process.compression is None:
        return model
    settings = process.part(*SECTIONS, "compression") | {"engine": process.scoring.engine}
    del settings["finetuning"]["search"]
    checkpoints = Checkpoints(open_store(), f"{process.name}/checkpoints/{fingerprint_of(STAGE, [model, samples], settings)}", run.claim)

    def work(store: Store, prefix: str, fingerprint: str) -> Artifact:
        with scratch() as folder:
            there = fetch_folder(store, model, folder / "tuned"), fetch_samples(store, samples, folder / "samples", process)
            facts = compress_model(process, *there, folder / "model", checkpoints)
            return store_folder(store, folder / "model", prefix, **facts)

    compressed = once(run, STAGE, "compressed", [model, samples], settings, work)
    checkpoints.clear()
    return compressed
