"""Duplicates: which samples say again what another one says, so that no text counts twice and none is learned before it is asked.

An exact duplicate has the same folded prompt and the same output. A near duplicate has the same output, the same figures
in the same order, the same short values, and prose whose character shingles have at least the declared Jaccard similarity.

Only prose may differ, because to shingles two forms look alike that differ in one amount, name or choice, and yet they are
two records; a typo in a sentence is not. The prompt's template is left out: it is in all of them. The same words under
another output are no duplicate: they show where the answer is not certain.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.records import as_text

Keys = NDArray[np.uint64]

PROSE = 20  # characters from which a value is prose; what is shorter is a name, a code, an amount or a choice
LONG = 40  # characters from which shingles are 5 long, else 3, so that one typo does not change half of them
HASHES = 64
CROWD = 50  # samples of one bucket that others are compared with, so that a million alike ones take no square of time
FIGURES = re.compile(r"[\d一二三四五六七八九十百千万两〇零]+")
MULTIPLIERS, SHIFTS = np.random.default_rng(7).integers(1, 2**63, (2, HASHES), dtype=np.uint64) | np.uint64(1)


@dataclass(frozen=True, slots=True)
class Wording:
    """What of a sample is compared."""

    prose: str  # folded; empty when there is none, and then only exact duplicates are found
    rest: int  # digest of all that must be equal: output, figures, short values


def digest(*parts: str) -> int:
    """64 bits that stand for texts; two of ten million differing ones are alike once in 300,000 corpora."""
    return int.from_bytes(hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest(), "little")


def wording(inputs: Mapping[str, Any], output: str, fold: Callable[[str], str]) -> Wording:
    """What of a sample's cleaned input values and output is compared."""
    found = [fold(text) for text in leaves(inputs)]
    prose = "\n".join(text for text in found if len(text) >= PROSE)
    short = [text for text in found if len(text) < PROSE]
    return Wording(prose, digest(output, *FIGURES.findall(prose), "", *short))


def leaves(value: Any) -> Iterator[str]:
    """The texts of a value, of all within it where it is an object or a list."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from leaves(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from leaves(inner)
    else:
        yield as_text(value)


def shingles(prose: str) -> Keys:
    """Hashes of a text's character n-grams, (windows,); no blanks are needed to tell words apart."""
    size = 5 if len(prose) >= LONG else 3
    code = np.frombuffer(prose.encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    count = max(1, len(code) - size + 1)
    hashed = np.zeros(count, dtype=np.uint64)
    for offset in range(min(size, len(code))):
        hashed = (hashed + code[offset : offset + count]) * np.uint64(0x9E3779B97F4A7C15)
        hashed ^= hashed >> np.uint64(31)
    return hashed


def similarity(one: Keys, other: Keys) -> float:
    """Jaccard similarity of two sets of shingles, each sorted and without repeats, 0–1."""
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common)


def rows_of_a_band(threshold: float) -> int:
    """Hashes to a band: the most that still lets 95 of 100 pairs at the threshold meet in a bucket."""
    meets = {rows: 1 - (1 - threshold**rows) ** (HASHES // rows) for rows in (1, 2, 4, 8, 16)}
    return max((rows for rows, chance in meets.items() if chance >= 0.95), default=1)


def band_keys(wordings: Sequence[Wording], threshold: float) -> Keys:
    """Bucket keys of samples, (samples, bands): those that share one may be near duplicates (MinHash).

    Source: A. Broder, "On the resemblance and containment of documents" (1997).
    """
    sets = [shingles(each.prose) for each in wordings]
    flat, starts = np.concatenate(sets), np.cumsum([0, *map(len, sets[:-1])])
    rest = np.array([each.rest for each in wordings], dtype=np.uint64)
    rows = rows_of_a_band(threshold)
    keys = np.empty((len(sets), HASHES // rows), dtype=np.uint64)
    for band in range(keys.shape[1]):
        key = rest + np.uint64(band)
        for row in range(band * rows, (band + 1) * rows):
            mixed = flat * MULTIPLIERS[row] + SHIFTS[row]
            smallest = np.minimum.reduceat(mixed >> np.uint64(24), starts)
            key = (key ^ smallest) * np.uint64(0x9E3779B97F4A7C15)
            key ^= key >> np.uint64(29)
        keys[:, band] = key
    return keys


def exact_twins(keys: Keys, order: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each sample the first one, in the given order, that has the same key; -1 for that one itself, (samples,)."""
    ordered = keys[order]
    _, first, inverse = np.unique(ordered, return_index=True, return_inverse=True)
    twins = np.empty(len(keys), dtype=np.int64)
    twins[order] = order[first[inverse]]
    twins[twins == np.arange(len(keys))] = -1
    return twins


def near_twins(
    buckets: Keys, prose_of: Callable[[int], str], order: Iterable[int], kept: NDArray[np.bool_], threshold: float
) -> NDArray[np.int64]:
    """For each sample a kept earlier one that is its near duplicate; -1 where there is none, (samples,).

    Args:
        buckets: from `band_keys`, (samples, bands).
        prose_of: the prose of a sample; it is read again rather than held.
        order: samples to look at, first to last.
        kept: samples that are never dropped, only compared with, (samples,).
    """
    twins = np.full(len(buckets), -1, dtype=np.int64)
    shared = _shared(buckets)
    crowds: dict[int, list[int]] = {}
    shingled = lru_cache(maxsize=20_000)(lambda sample: np.unique(shingles(prose_of(sample))))
    for sample in order:
        meets = [int(key) for key in buckets[sample][shared[sample]]]
        if not meets:
            continue
        if not kept[sample]:
            others = dict.fromkeys(other for key in meets for other in crowds.get(key, ()))
            twins[sample] = next((other for other in others if similarity(shingled(sample), shingled(other)) >= threshold), -1)
        if twins[sample] < 0:
            for crowd in (crowds.setdefault(key, []) for key in meets):
                if len(crowd) < CROWD:
                    crowd.append(sample)
    return twins


def _shared(buckets: Keys) -> NDArray[np.bool_]:
    """Whether a bucket has more than one sample in it, (samples, bands)."""
    shared = np.zeros(buckets.shape, dtype=np.bool_)
    for band in range(buckets.shape[1]):
        order = np.argsort(buckets[:, band], kind="stable")
        alike = buckets[order[1:], band] == buckets[order[:-1], band]
        shared[order[1:], band] |= alike
        shared[order[:-1], band] |= alike
    return shared
