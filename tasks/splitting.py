"""Splitting: which samples train, which choose the best step, which measure; no text or group stands on two sides.

The side is drawn from a digest of the seed and the group (or the folded prompt), not from a shuffle: a record keeps its
side when records are added, so a champion is never tested on what its challenger has learned, nor the other way round.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.cleaning import fold
from tasks.process import Process
from tasks.records import as_text, lookup

TRAIN, VALIDATION, TEST = 0, 1, 2
SIDES = ("train", "validation", "test")


def group_of(process: Process, values: Mapping[str, Any]) -> str:
    """The group that a record belongs to, by path or as they came; "" where none is declared, or it has none."""
    return as_text(lookup(values, process.records.group)) if process.records.group else ""


def split_key(process: Process, values: Mapping[str, Any], prompt: str) -> str:
    """What decides a record's side: its group, else its folded prompt."""
    return group_of(process, values) or fold(prompt)


def draw(seed: int, key: str) -> float:
    """A number in [0, 1) that only the seed and the key decide."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{key}".encode()).digest()[:8], "big") / 2**64


def side_of(process: Process, declared: str, key: str) -> int:
    """The side of a record: that of its file when the file is declared as one, else drawn.

    Args:
        declared: "train", "validation" or "test" where a person or a fixed file says so, or "" for a record of the source.
        key: what `split_key` says.
    """
    if declared:
        return SIDES.index(declared)
    test_share = 0.0 if process.records.test else process.sample.test_share
    validation_share = 0.0 if process.records.validation else process.sample.validation_share
    drawn = draw(process.sample.seed, key)
    return TEST if drawn < test_share else VALIDATION if drawn < test_share + validation_share else TRAIN


def leaks(sides: NDArray[np.int8], *keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Samples whose text, or group, also stands on a side that measures them, (samples,); a key of 0 and a side of -1 are none.

    A drawn side has none; a fixed test file, or one text in two groups, may.
    """
    leaking = np.zeros(len(sides), dtype=np.bool_)
    for side in (TEST, VALIDATION):
        for key in keys:
            there = key[(sides == side) & ~leaking & (key != 0)]
            leaking |= (sides >= 0) & (sides < side) & np.isin(key, there)
    return leaking


def check_sides(process: Process, sides: NDArray[np.int8], *keys: NDArray[np.uint64]) -> dict[str, int]:
    """Samples on each side, when every side has some and no text or group stands on two.

    Raises:
        ValueError: a side is empty; the message has the counts and the remedy.
        AssertionError: a text or a group stands on two sides.
    """
    counts = {name: int((sides == side).sum()) for side, name in enumerate(SIDES)}
    empty = [name for name, count in counts.items() if not count]
    if empty:
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ValueError(
            f"{process.name}: nothing is left for {' and '.join(empty)} ({told}); "
            "give more records, a larger sample.test_share or validation_share, or files as records.test and records.validation"
        )
    if leaks(sides, *keys).any():
        raise AssertionError(f"{process.name}: a text or group stands on two sides of the split")
    return counts
