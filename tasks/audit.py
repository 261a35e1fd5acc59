"""Audit: words on accepted answers that were drawn for a person -> how often a version's are wrong, and whether its certificate holds.

Only such words count: what batches leave to review is what the model was not sure of, and says nothing of what is accepted.

Words come one by one and every batch looks at them, so the interval, exact for one look, refutes nothing: looked at often enough it would
refute every certificate. What refutes one is a test martingale (Ville, 1939; Robbins, 1970): how much likelier the words are where more
than max_error of the answers are wrong, by a mixture of such shares, than where max_error are. Where no more than that are wrong it ever
reaches 1 / (1 - confidence) with a chance of at most 1 - confidence, however often it is looked at. Once refuted is refuted.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.store import Store
from tasks.certificate import lower_bound, upper_bound
from tasks.facts import facts_of
from tasks.metrics import Case, acceptable, correct
from tasks.process import Process
from tasks.reviewing import Queue
from tasks.reviews import Reviewed, shown_id
from tasks.terms import Automation


@dataclass(frozen=True, slots=True)
class Audit:
    """What people found among the accepted answers of one version."""

    version: str
    looked_at: int
    wrong: int  # of them
    lower: float  # of the share of wrong answers, 0-1, with the declared confidence, for one look
    upper: float
    max_error: float  # as it is declared today
    confidence: float
    refuted: bool

    @property
    def told(self) -> str:
        """In words."""
        counted = f"{self.wrong} of {self.looked_at} accepted answers of {self.version} that people looked at afterwards were wrong"
        share = f"with {self.confidence:.0%} confidence between {self.lower:.1%} and {self.upper:.1%} are; max_error is {self.max_error:g}"
        return f"{counted}: {share}" + (": its certificate is refuted" if self.refuted else "")


def audit_of(store: Store, process: Process, version: str) -> Audit | None:
    """What people have said on accepted answers of a version; None where they have not, or nothing is promised.

    The first word on a record counts, whatever else it carries along and whatever is said later: what was seen is not unseen. Whether a
    word's answer is declared today does not matter: it says what was right when it was given.
    """
    if process.automation is None:
        return None
    wrong: dict[str, bool] = {}
    for word in Queue(store, process).said().words:
        if word.audited and word.model_version == version:
            wrong.setdefault(shown_id(word.record_id, word.inputs, process.input_columns), is_wrong(word, process))
    return judged(version, list(wrong.values()), process.automation) if wrong else None


def is_wrong(word: Reviewed, process: Process) -> bool:
    """Whether an accepted answer was wrong as the certificate counts it: a text that states all its facts is right, in whatever words."""
    facts = tuple(facts_of(process, word.inputs)) if process.output.kind == "text" else ()
    if facts and isinstance(word.output, str) and isinstance(word.proposed, str):
        return not acceptable("text", Case(word.output, facts=facts), word.proposed)
    return differs(word)


def differs(word: Reviewed) -> bool:
    """Whether something else is right than the model has said; a correction that changes no more than blanks is none."""
    if isinstance(word.output, Mapping) != isinstance(word.proposed, Mapping) or word.output is None:
        return True
    kind = "fields" if isinstance(word.output, Mapping) else "text"
    return not correct(kind, [Case(word.output)], [word.proposed])[0]


def judged(version: str, wrong: Sequence[bool], terms: Automation) -> Audit:
    """What words on a version's accepted answers say of what is declared.

    Args:
        wrong: of each word, in the order in which they were given.
    """
    counts, side = (sum(wrong), len(wrong)), (1 + terms.confidence) / 2  # what one side may miss is half of what both may
    return Audit(
        version=version,
        looked_at=len(wrong),
        wrong=sum(wrong),
        lower=lower_bound(*counts, side) or 0.0,
        upper=upper_bound(*counts, side) or 0.0,
        max_error=terms.max_error,
        confidence=terms.confidence,
        refuted=evidence(wrong, terms.max_error) >= -math.log1p(-terms.confidence),
    )


def evidence(wrong: Sequence[bool], max_error: float) -> float:
    """Logarithm of the most that there has ever been against "at most max_error are wrong", see above; 0 at the beginning.

    The shares above max_error are mixed as a Beta(1, 1 / (2 max_error)) cut off there: most of it lies below four times max_error.
    """
    from scipy.special import betaincc, betaln

    def within(errors: NDArray[np.int64], right: NDArray[np.int64]) -> Any:
        shape = 1 + errors, 1 / (2 * max_error) + right
        with np.errstate(divide="ignore"):  # nothing of it lies above max_error: there is no evidence
            return betaln(*shape) + np.log(betaincc(*shape, max_error))

    errors = np.append(0, np.cumsum(wrong, dtype=np.int64))
    right = np.arange(len(errors)) - errors
    found = within(errors, right) - within(errors[:1], right[:1]) - errors * math.log(max_error) - right * math.log1p(-max_error)
    return float(found.max())
