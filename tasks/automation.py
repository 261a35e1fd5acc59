"""Automation: answers to the validation and the test split -> the certificate that a version is published with, and what it is worth.

Three sets of records take part, and none of them twice. The validation split decides which thresholds are tested, and in which order:
its records helped to choose the best step of the training, so they could certify nothing. A part of the test split, drawn by text or
group, tests them. The rest of it measures what they give: the straight-through rate, and the errors that slip through.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks import certificate as certificates
from tasks import scope as scopes
from tasks.cases import PromptOf, Test, ask, cases_of
from tasks.certificate import Certificate, Marks, Rows, accepted_by, as_bytes, certify, measure_accepted
from tasks.features import input_text
from tasks.metrics import Case, acceptable
from tasks.predictions import Prediction
from tasks.process import Process
from tasks.scope import Scope
from tasks.splitting import draw, split_key

if TYPE_CHECKING:
    from datasets import Dataset

    from tasks.generation import Predictor

FILES = (certificates.FILE, scopes.FILE)  # of an evaluation and of a version
CHOOSING_CASES = 5_000  # of the validation split; more would not choose better


@dataclass(frozen=True, slots=True)
class Asked:
    """Cases of one split, what was answered, and how much each is like the training records (None where nobody looks)."""

    cases: Sequence[Case]
    predictions: Sequence[Prediction]
    similarities: NDArray[np.float64] | None


def text_of(process: Process, inputs: Mapping[str, Any], prompt: str) -> str:
    """What of a record is compared with the training records: its inputs, without the words that the prompt puts around them."""
    return input_text(process, inputs) or prompt


def learn_scope(process: Process, texts: Iterable[str]) -> Scope | None:
    """What training records look like; None where the declaration does not ask."""
    asked = process.automation is not None and process.automation.out_of_scope is not None
    return Scope.learn(texts) if asked else None


def calibrates(process: Process, inputs: Mapping[str, Any], prompt: str) -> bool:
    """Whether a test record chooses thresholds, or measures what they give; drawn by its group or text, so that it stays as data grow."""
    share = process.automation.calibration_share if process.automation else 0.0
    return draw(process.sample.seed, f"calibration\0{split_key(process, inputs, prompt)}") < share


def certified(process: Process, choosing: Asked, test: Asked, calibrating: Sequence[bool]) -> tuple[Certificate, list[bool | None]]:
    """The certificate, and for each test case whether it is accepted; None for those that chose the thresholds.

    Args:
        calibrating: of each test case, whether it chooses.

    Raises:
        ValueError: the process declares no automation.
    """
    terms = process.automation
    if terms is None:
        raise ValueError(f"{process.name} declares no automation")
    scope = None
    if choosing.similarities is not None and terms.out_of_scope is not None and len(choosing.similarities):
        scope = float(np.quantile(choosing.similarities, terms.out_of_scope))
    rows, chooses = _rows(process, test, scope), np.array(calibrating, dtype=np.bool_)
    thresholds = certify(_rows(process, choosing, scope), rows.where(chooses), terms)
    accepted = accepted_by(thresholds, rows)
    measured = measure_accepted(accepted[~chooses], rows.where(~chooses), terms.confidence)
    certificate = Certificate(max_error=terms.max_error, confidence=terms.confidence, thresholds=thresholds, scope=scope, measured=measured)
    return certificate, [None if chose else bool(taken) for chose, taken in zip(chooses, accepted, strict=True)]


def _rows(process: Process, asked: Asked, scope: float | None) -> Rows:
    kind = process.output.kind
    outputs = [each.output for each in asked.predictions]
    wrong: Marks = np.array([not acceptable(kind, *pair) for pair in zip(asked.cases, outputs, strict=True)], dtype=np.bool_)
    sure = np.array([-1.0 if each.output is None else each.confidence for each in asked.predictions], dtype=np.float64)
    if scope is not None and asked.similarities is not None:
        sure[asked.similarities < scope] = -1.0
    return Rows([label_of(kind, output) for output in outputs], sure, wrong)


def label_of(kind: str, output: Any) -> str | None:
    """What decides which threshold counts for an answer."""
    return str(output) if kind == "label" and output is not None else None


def notes_on(process: Process, certificate: Certificate) -> list[str]:
    """What a person should know of the certificate, in sentences."""
    confidence, most = f"{certificate.confidence:.0%}", f"{certificate.max_error:.1%}"
    said = [f"An answer is accepted without a person where, with {confidence} confidence, at most {most} of such answers are wrong."]
    for each in certificate.thresholds:
        who = f"Answers {each.label!r}" if each.label is not None else "Other answers" if len(certificate.thresholds) > 1 else "Answers"
        if each.threshold is not None:
            counted = f"{each.errors} of {each.accepted} accepted calibration records wrong, so at most {each.bound:.1%}"
            said.append(f"{who} are accepted from a confidence of {each.threshold:.4f} on: {counted}.")
        elif each.rows:
            said.append(f"{who} all go to review: {each.rows} calibration records certify nothing. {_remedy(process, each.needed)}")
    if found := certificate.measured:
        said.append(f"Measured on {found.rows} other test records: {found.accepted} accepted, {found.errors} of them wrong.")
    if certificate.scope is not None:
        said.append(f"Records less like the training records than {certificate.scope:.3f} (0 to 1) go to review as out of scope.")
    return said


def _remedy(process: Process, needed: int | None) -> str:
    if needed is None or process.automation is None:
        return "More records would not help: too many answers are wrong, even the surest; the model has to be better."
    test = needed / process.automation.calibration_share
    labelled = "" if process.records.test else f", {test / process.sample.test_share:,.0f} labelled ones in all"
    return f"About {needed:,} would do, which takes {test:,.0f} test records{labelled}."


def keep(certificate: Certificate, scope: Scope | None, folder: Path) -> None:
    """Write what scoring goes by; `FILES` are its names."""
    (folder / FILES[0]).write_bytes(as_bytes(certificate))
    if scope is not None:
        scope.save(folder)


def choosing_cases(process: Process, rows: "Dataset") -> Test:
    """Cases of the validation split, spread over it where it is large."""
    step = -(-len(rows) // CHOOSING_CASES) or 1
    return cases_of(process, rows.select(range(0, len(rows), step)))


def certify_answers(
    predictor: "Predictor",
    scope: Scope | None,
    choosing: Test,
    test: Test,
    predictions: list[Prediction],
    prompt_of: PromptOf,
    process: Process,
) -> tuple[Certificate, list[bool | None]]:
    """A model's certificate, and for each test case whether it goes straight through; None for those that chose thresholds."""
    first = [test.rows[group[0]] for group in test.members]
    return certified(
        process,
        Asked(choosing.cases, ask(predictor, choosing, prompt_of), _similarities(scope, choosing, predictor.process)),
        Asked(test.cases, predictions, _similarities(scope, test, predictor.process)),
        [calibrates(process, json.loads(row["inputs"]), row["prompt"]) for row in first],
    )


def _similarities(scope: Scope | None, test: Test, process: Process) -> Any:
    return scope.similarities([text_in(process, test.rows[group[0]]) for group in test.members]) if scope else None


def text_in(process: Process, row: Mapping[str, Any]) -> str:
    """The same of a line of samples/."""
    return text_of(process, json.loads(row["inputs"]), row["prompt"])
