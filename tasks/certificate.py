"""Certificate: held-out answers and how sure the model was -> from which confidence on an answer is accepted without a person, and what
vouches for it.

Learn-Then-Test (Angelopoulos et al., 2021) with fixed-sequence testing. Thresholds, and where their sequence begins, are decided on the
validation split. Each is then tested on calibration records, with the exact binomial p-value of "more than max_error of the accepted
are wrong", from its beginning downwards until the first one that fails; the last one before is taken. So the chance that accepted
records are wrong more often than max_error is at most 1 - confidence, for records like the calibration records, whatever the model.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from tasks.terms import Automation

FILE = "automation.json"
SHARES = np.arange(1, 41) / 40  # of the validation answers that a threshold accepts: the grid, decided before anything is looked at
HEAD_START = 0.6  # of the most promising share: where testing begins; simulated with 200 records, 0.5 to 1
ROOM = 2.0  # times the fewest records that could certify: so many are accepted where testing begins, so that some may be wrong
SPARE = 4.0  # times the fewest records that could certify a label: from so many on it gets a threshold of its own
LOOKED_AT = np.unique(np.geomspace(1, 50_000, 300).astype(int))  # numbers of records; how many would be needed is told so finely

Reason = Literal["unsure", "uncertified", "out_of_scope"]
Floats = NDArray[np.float64]
Marks = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Rows:
    """Answers to held-out records."""

    labels: Sequence[str | None]  # predicted; None for fields and texts, which share one threshold
    sure: Floats  # confidence 0-1; -1 where the answer cannot be accepted: there is none, or its record is out of scope
    wrong: Marks

    def where(self, chosen: Marks) -> "Rows":
        """Some of the rows."""
        return Rows([label for label, keep in zip(self.labels, chosen, strict=True) if keep], self.sure[chosen], self.wrong[chosen])


class Threshold(BaseModel):
    """The confidence from which on answers with a label are accepted, and the records that vouch for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str | None = None  # None: every answer without a threshold of its own
    threshold: float | None = None  # None: nothing is accepted
    rows: int  # calibration records
    accepted: int = 0  # of them
    errors: int = 0  # of the accepted
    bound: float | None = None  # the share of errors is at most this
    confidence: float  # with this confidence; the declared one, shared out among several thresholds
    needed: int | None = None  # calibration records that would probably certify something, where nothing is; None: more than could be told


class Measured(BaseModel):
    """What the thresholds give on test records that had no part in choosing them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    accepted: int
    errors: int
    bound: float | None = None  # of these records alone, with the declared confidence


class Certificate(BaseModel):
    """What scoring goes by, kept with the version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_error: float
    confidence: float
    thresholds: tuple[Threshold, ...]
    scope: float | None = None  # a record that is less like the training records is reviewed
    measured: Measured | None = None

    def threshold_of(self, label: str | None) -> float | None:
        """The threshold for an answer; None when none is accepted."""
        own = {each.label: each.threshold for each in self.thresholds}
        return own.get(label, own.get(None))

    def reason(self, label: str | None, confidence: float, similarity: float | None) -> Reason | None:
        """Why a person has to look at an answer; None when it is accepted."""
        if self.scope is not None and similarity is not None and similarity < self.scope:
            return "out_of_scope"
        threshold = self.threshold_of(label)
        if threshold is None:
            return "uncertified"
        return "unsure" if confidence < threshold else None

    def vouches_for(self, terms: Automation) -> bool:
        """Whether accepted answers are wrong as seldom as is declared today; for stricter terms than its own the measured records say so.

        They chose no threshold, and a bound at one confidence holds whichever max_error is declared after it was seen. It is one of all
        accepted answers together, where the thresholds were certified label by label.
        """
        if self.max_error <= terms.max_error and self.confidence >= terms.confidence:
            return True
        bound = upper_bound(self.measured.errors, self.measured.accepted, terms.confidence) if self.measured else None
        return bound is not None and bound <= terms.max_error


def read_certificate(folder: Path) -> Certificate | None:
    """The certificate of a version or an evaluation; None when it has none."""
    file = folder / FILE
    return Certificate.model_validate_json(file.read_bytes()) if file.is_file() else None


def as_bytes(certificate: Certificate) -> bytes:
    """As it is kept."""
    return (json.dumps(certificate.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


# Bounds


def p_value(errors: Any, rows: Any, max_error: float) -> Any:
    """The chance of so few errors or fewer if more than max_error of all were wrong: exact binomial, 1 without rows."""
    from scipy.special import bdtr

    return np.where(np.asarray(rows) > 0, bdtr(errors, np.maximum(rows, 1), max_error), 1.0)


def upper_bound(errors: int, rows: int, confidence: float) -> float | None:
    """Clopper and Pearson's one-sided upper bound of a share; None without rows."""
    from scipy.special import betaincinv

    if not rows:
        return None
    return 1.0 if errors == rows else float(betaincinv(errors + 1, rows - errors, confidence))


def lower_bound(errors: int, rows: int, confidence: float) -> float | None:
    """The lower bound of the same kind; None without rows."""
    right = upper_bound(rows - errors, rows, confidence)
    return None if right is None else 1 - right


def fewest_rows(max_error: float, risk: float) -> int:
    """Accepted records, all of them right, that certify max_error but for a risk."""
    return math.ceil(math.log(risk) / math.log1p(-max_error))


def rows_for(rate: float, max_error: float, risk: float) -> int | None:
    """About how many accepted records certify max_error when this share of them is wrong; None when more than could be told."""
    enough = p_value(np.floor(rate * LOOKED_AT), LOOKED_AT, max_error) <= risk
    return int(LOOKED_AT[enough.argmax()]) if rate < max_error and enough.any() else None


# Thresholds


def certify(choosing: Rows, calibrating: Rows, terms: Automation) -> tuple[Threshold, ...]:
    """A threshold for each label with enough calibration records, and one for all other answers, which comes last.

    The risk of a wrong certificate, 1 - confidence, is shared out among them: all of them hold together with the declared confidence.

    Args:
        choosing: validation answers; they decide in which order thresholds are tested.
        calibrating: answers to records that no part of the model, nor of that order, has seen.
    """
    own = own_labels(calibrating, terms)
    risk = (1 - terms.confidence) / (len(own) + 1)
    return tuple(_certify(label, _part(choosing, label, own), _part(calibrating, label, own), terms, risk) for label in (*own, None))


def own_labels(rows: Rows, terms: Automation) -> list[str]:
    """Labels that are given often enough, the most frequent first; how often they are right is not looked at."""
    counts = Counter(label for label in rows.labels if label is not None)
    ranked = sorted(counts, key=lambda label: (-counts[label], label))
    for number in range(len(ranked), 0, -1):
        if counts[ranked[number - 1]] >= SPARE * fewest_rows(terms.max_error, (1 - terms.confidence) / (number + 1)):
            return ranked[:number]
    return []


def _part(rows: Rows, label: str | None, own: Sequence[str]) -> Rows:
    return rows.where(np.array([each == label if label is not None else each not in own for each in rows.labels], dtype=np.bool_))


def _certify(label: str | None, choosing: Rows, calibrating: Rows, terms: Automation, risk: float) -> Threshold:
    least = fewest_rows(terms.max_error, risk) / max(1, len(calibrating.sure))
    sequence = sequence_of(choosing, terms.max_error, least)
    accepted, errors = counts_of(calibrating, sequence)
    holds = p_value(errors, accepted, terms.max_error) <= risk
    last = int(np.argmin(np.append(holds, False))) - 1  # the first failure ends it
    rows, confidence = len(calibrating.sure), 1 - risk
    if last < 0:
        return Threshold(label=label, rows=rows, confidence=confidence, needed=_needed(choosing, calibrating, terms.max_error, risk))
    bound = upper_bound(int(errors[last]), int(accepted[last]), confidence)
    facts = {"accepted": int(accepted[last]), "errors": int(errors[last]), "bound": bound}
    return Threshold(label=label, threshold=float(sequence[last]), rows=rows, confidence=confidence, **facts)


def grid_of(rows: Rows) -> Floats:
    """Confidences that accept one fortieth, two fortieths, … of these answers; descending."""
    sure = np.sort(rows.sure[rows.sure >= 0])[::-1]
    if not len(sure):
        return np.empty(0)
    places = np.ceil(SHARES * len(sure)).astype(int) - 1
    return np.unique(sure[places])[::-1]


def sequence_of(choosing: Rows, max_error: float, least: float = 0.0) -> Floats:
    """The grid downwards from somewhat above its most promising threshold: the one that these records alone would certify most clearly.

    The first threshold that fails ends it, so one that is too low at the start certifies nothing at all; and these records make it seem
    lower than it is, for the model was chosen by them.

    Args:
        least: share of the answers that has to be accepted before anything can be certified, even if all are right.
    """
    grid = grid_of(choosing)
    if not len(grid):
        return grid
    accepted, errors = counts_of(choosing, grid)
    values = p_value(errors, accepted, max_error)
    best = int(np.flatnonzero(values <= values.min())[-1])
    above, enough = math.ceil((best + 1) * HEAD_START) - 1, accepted >= min(1.0, ROOM * least) * len(choosing.sure)
    return grid[min(best, max(above, int(enough.argmax()) if enough.any() else best)) :]


def counts_of(rows: Rows, thresholds: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Answers that each threshold accepts, and those of them that are wrong, (thresholds,) each."""
    order = np.argsort(-rows.sure, kind="stable")
    accepted = np.searchsorted(-rows.sure[order], -thresholds, side="right")
    wrong = np.append(0, np.cumsum(rows.wrong[order]))
    return accepted.astype(np.int64), wrong[accepted].astype(np.int64)


def _needed(choosing: Rows, calibrating: Rows, max_error: float, risk: float) -> int | None:
    """Calibration records that would certify the easiest threshold, if errors stay as frequent as they were."""
    both = Rows([], np.append(choosing.sure, calibrating.sure), np.append(choosing.wrong, calibrating.wrong))
    grid = grid_of(both)
    found = [
        math.ceil(rows * len(both.sure) / accepted)
        for accepted, errors in zip(*map(np.ndarray.tolist, counts_of(both, grid)), strict=True)
        if (rows := rows_for((errors + 0.5) / (accepted + 1), max_error, risk)) is not None
    ]
    return min(found, default=None)


def accepted_by(thresholds: Sequence[Threshold], rows: Rows) -> Marks:
    """Which answers are accepted."""
    known = {each.label: math.inf if each.threshold is None else each.threshold for each in thresholds}
    return np.array([sure >= known.get(label, known[None]) for label, sure in zip(rows.labels, rows.sure.tolist(), strict=True)], np.bool_)


def measure_accepted(accepted: Marks, rows: Rows, confidence: float) -> Measured:
    """How many records go straight through, and how many of those are wrong."""
    count, errors = int(accepted.sum()), int((accepted & rows.wrong).sum())
    return Measured(rows=len(accepted), accepted=count, errors=errors, bound=upper_bound(errors, count, confidence))
