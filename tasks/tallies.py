"""Tallies: what became of a batch's records, and when too many of them are dead letters for the batch to be seen."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tasks.reasons import Reason

JUDGED_FROM = 200  # records, whose share is taken at its word, at once; of fewer it says little, and they are judged at their end
CHANCE = 0.01  # of so many dead letters among fewer records, if max_dead of all records were such: a smaller one stops the batch


@dataclass(slots=True)
class Tally:
    """What became of a batch's records."""

    rows: int = 0
    done: int = 0  # accepted
    reviewed: int = 0  # of them, answered by a person before
    audit: int = 0  # of them, for a person to look at afterwards
    review: int = 0
    dead: int = 0
    asked: int = 0  # of the model; the others were known
    reasons: Counter[str] = field(default_factory=Counter)  # code -> dead letters
    doubts: Counter[str] = field(default_factory=Counter)  # reason -> records to review
    reading: dict[str, Any] = field(default_factory=dict)  # the encoding of the source, and how it is known


def check_budget(tally: Tally, most: float, name: str, ended: bool) -> None:
    """That not too many of the records read so far are dead letters.

    A record that came before counts once; what a person has rejected says nothing of the source.

    Args:
        most: share of them, 0-1.
        name: of the source.
        ended: whether all of it was read.

    Raises:
        ValueError: they are.
    """
    rows = tally.rows - tally.reasons[Reason.REPEATED]
    dead = tally.dead - tally.reasons[Reason.REPEATED] - tally.reasons[Reason.REJECTED]
    if dead <= most * rows or not (ended or rows >= JUDGED_FROM):
        return
    if rows < JUDGED_FROM and chance_of(dead, rows, most) >= CHANCE:
        return
    counts = f"{dead:,} of the first {rows:,} records are dead letters, batch.max_dead is {most:g}"
    reasons = ", ".join(f"{code} {count:,}" for code, count in tally.reasons.most_common())
    told = "nothing of this batch is seen, and what was answered is kept; mend the source, or raise batch.max_dead"
    raise ValueError(f"{name}: stopped: {counts}: {reasons}; {told}")


def chance_of(dead: int, rows: int, share: float) -> float:
    """That so many of a few records or more are dead letters, where this share of all records is: exact binomial."""
    from scipy.special import bdtrc

    return float(bdtrc(dead - 1, rows, share))
