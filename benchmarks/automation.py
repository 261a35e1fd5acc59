"""Certified automation: does the bound hold as stated? Models whose true error is known are certified on drawn records, seed after seed.

python -m benchmarks.automation [seeds]. Violated: the accepted records of one of the thresholds are, in truth, wrong more often than
max_error. At most 1 - confidence of the seeds may be; an observed rate lies above that by chance in its own interval only.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tasks.certificate import Rows, Threshold, accepted_by, certify, measure_accepted, upper_bound
from tasks.terms import Automation

SEEDS = 200
TRUTH = 200_000  # records by which the truth is known

Floats = NDArray[np.float64]
Curve = Callable[[Floats], Floats]


def honest(sure: Floats) -> Floats:
    """A model that is wrong as often as it says."""
    return 1 - sure


def overconfident(sure: Floats) -> Floats:
    """Wrong four times as often as it says."""
    return np.minimum(0.9, 4 * (1 - sure))


def wavering(sure: Floats) -> Floats:
    """Surest where it is often wrong: confidence does not order its errors."""
    return np.where(sure > 0.97, 0.08, np.where(sure > 0.8, 0.02, 0.3))


def flat(sure: Floats) -> Floats:
    """Confidence says nothing, and errors are just too many: whatever is accepted violates."""
    return np.full_like(sure, 0.055)


@dataclass(frozen=True, slots=True)
class Setting:
    """A model, how many records it is certified on, and what is asked."""

    name: str
    curve: Curve
    rows: int  # of calibration, and as many to choose by
    terms: Automation
    labels: tuple[float, ...] = (1.0,)  # how frequent each is; the second and later ones are harder
    digits: int = 6  # of a confidence


@dataclass(slots=True)
class Seen:
    """What came out of one setting's seeds."""

    violated: int = 0
    certified: int = 0  # seeds that accept anything
    shares: list[float] = field(default_factory=list)  # accepted of the truth
    reported: list[float] = field(default_factory=list)  # accepted of the records that measure


def settings() -> list[Setting]:
    """All settings of the table."""
    strict, loose, even = Automation(max_error=0.02), Automation(max_error=0.1, confidence=0.9), Automation(max_error=0.05, confidence=0.8)
    usual = Automation(max_error=0.05)
    labels = (0.4, 0.3, 0.2, 0.06, 0.04)
    return [
        Setting("honest, 200 records", honest, 200, usual),
        Setting("honest, 1000 records", honest, 1000, usual),
        Setting("honest, strict", honest, 1000, strict),
        Setting("overconfident", overconfident, 500, usual),
        Setting("overconfident, loose", overconfident, 200, loose),
        Setting("wavering", wavering, 500, usual),
        Setting("wavering, 0.8", wavering, 500, even),
        Setting("flat at 0.055", flat, 500, usual),
        Setting("flat, coarse confidence", flat, 500, even, digits=1),
        Setting("five labels", honest, 1500, usual, labels),
        Setting("five labels, overconfident", overconfident, 1500, loose, labels),
    ]


def draw(setting: Setting, count: int, chance: np.random.Generator) -> Rows:
    """Answers of the setting's model."""
    numbers = chance.choice(len(setting.labels), count, p=setting.labels)
    sure = np.round(chance.beta(6, 0.7 + 0.15 * numbers), setting.digits)
    labels = [None] * count if len(setting.labels) == 1 else [f"label {number}" for number in numbers.tolist()]
    return Rows(labels, sure, chance.random(count) < setting.curve(sure))


class Truth:
    """Each label's records, the surest first, with their true error added up."""

    def __init__(self, setting: Setting) -> None:
        rows = draw(setting, TRUTH, np.random.default_rng(0))
        labels = np.array(rows.labels, dtype=object)
        self.parts = {}
        for label in dict.fromkeys(rows.labels):
            sure = np.sort(rows.sure[labels == label])[::-1] if label else np.sort(rows.sure)[::-1]
            self.parts[label] = sure, np.append(0.0, np.cumsum(setting.curve(sure)))

    def of(self, thresholds: tuple[Threshold, ...]) -> tuple[list[float], float]:
        """The share of errors among what each threshold accepts, and the share of all records that is accepted."""
        own, found, total = {each.label for each in thresholds}, [], 0
        for each in thresholds:
            labels = [label for label in self.parts if label == each.label or (each.label is None and label not in own)]
            parts = [] if each.threshold is None else [self._accepted(label, each.threshold) for label in labels]
            count, errors = sum(count for count, _ in parts), sum(errors for _, errors in parts)
            found += [errors / count] if count else []
            total += count
        return found, total / TRUTH

    def _accepted(self, label: str | None, threshold: float) -> tuple[int, float]:
        sure, errors = self.parts[label]
        count = int(np.searchsorted(-sure, -threshold, side="right"))
        return count, float(errors[count])


def simulate(setting: Setting, seeds: int) -> Seen:
    """Certify and compare with the truth, seed after seed."""
    seen, truth = Seen(), Truth(setting)
    for seed in range(1, seeds + 1):
        chance = np.random.default_rng(seed)
        choosing, calibrating, measuring = (draw(setting, setting.rows, chance) for _ in range(3))
        thresholds = certify(choosing, calibrating, setting.terms)
        errors, share = truth.of(thresholds)
        seen.violated += any(error > setting.terms.max_error for error in errors)
        seen.certified += bool(errors)
        seen.shares.append(share)
        measured = measure_accepted(accepted_by(thresholds, measuring), measuring, setting.terms.confidence)
        seen.reported.append(measured.accepted / measured.rows)
    return seen


def main() -> None:
    """Print nominal against observed; exit status 1 when an observed rate is too high to be chance."""
    seeds, started = int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS, time.perf_counter()
    headings = ("records", "max_error", "violated at most", "observed", "certified", "accepted", "reported")
    print(f"{f'{seeds} seeds each':28}" + "".join(f"{heading:>18}" for heading in headings))
    broken = 0
    for setting in settings():
        seen, terms = simulate(setting, seeds), setting.terms
        broken += too_many(seen.violated, seeds, 1 - terms.confidence)
        figures = (1 - terms.confidence, seen.violated / seeds, seen.certified / seeds, np.mean(seen.shares), np.mean(seen.reported))
        counts = f"{setting.name:28}{setting.rows:>18}{terms.max_error:>18g}"
        print(counts + "".join(f"{value:>18.3f}" for value in figures), flush=True)
    print(f"{time.perf_counter() - started:.0f} s; accepted: share of all records, in truth; reported: as measured")
    sys.exit(f"{broken} settings are violated more often than chance allows" if broken else 0)


def too_many(violated: int, seeds: int, allowed: float) -> bool:
    """Whether a rate that is at most what is allowed would hardly ever (0.01) give so many violations."""
    return 1 - (upper_bound(seeds - violated, seeds, 0.99) or 0.0) > allowed


if __name__ == "__main__":
    main()
