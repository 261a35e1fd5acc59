"""Mentions: which values of a record its text leaves out, in whatever words people say them.

A name stands in a text as it is; "familyFriendly: no" stands there as "adults only". So for each column of few values a regression learns
from texts which value their record has. A text that hardly makes that value likelier than it is without any text leaves it out. Half of the
texts judge the other half, so none is judged by what it taught. People leave out one fact in ten, and a model learns that from them: Dušek
et al. 2019, "Semantic Noise Matters" (arXiv:1911.03905).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from tasks.cleaning import fold
from tasks.duplicates import digest
from tasks.linear import CHARACTERS, UNWEIGHED, Linear, counted, settled, vocabulary_of, weighted
from tasks.process import Process
from tasks.prompts import leaves_of
from tasks.spans import occurrences

LEARNED = 10_000  # texts at most
MOST_VALUES = 20  # of a column; of more they are names
MOST_COLUMNS = 20  # those that most records have
FEWEST = 10  # texts of a half that have a value, below which it is not judged
MOSTLY = 0.7  # of the texts mention a column: what people leave out more often was never meant to be said
HARDLY = 0.5  # in log-odds, what a text must add to speak for a value
STRENGTH = 1.0  # C of the regressions
ABSENT = ""


class Told(Protocol):
    """A record and the text that was written of it."""

    @property
    def record_id(self) -> str: ...
    @property
    def inputs(self) -> dict[str, Any]:
        """Path -> cleaned value."""

    @property
    def output(self) -> Any: ...


class Column(NamedTuple):
    """What half of the texts knows of a column."""

    numbers: dict[str, int]  # value -> its class
    regression: Linear
    untold: NDArray[np.float64]  # (classes,): log-odds before a text is read; negative infinity where a class is not judged


class Mentions:
    """What judges texts: of each half, what the other one says."""

    def __init__(self, process: Process, few_valued: Sequence[str], halves: Sequence[Mapping[str, Column]]) -> None:
        self.process, self._few_valued, self._halves = process, few_valued, halves
        self.paths = [path for path in halves[0] if path in halves[1]]
        self.told: dict[str, float] = {}  # path -> of the texts whose record has a value there, the share that mentions it

    @classmethod
    def learn(cls, process: Process, rows: Sequence[Told]) -> Self | None:
        """From training texts; None where there is no column that its texts mostly mention."""
        paths = _few_valued(process, rows)
        found = cls(process, paths, [_learned(process, [rows[at] for at in _readable(rows, half)], paths) for half in (0, 1)])
        found.told = {path: share for path, share in found._shares(rows).items() if share >= MOSTLY}
        found.paths = list(found.told)
        return found if found.paths else None

    def _shares(self, rows: Sequence[Told]) -> dict[str, float]:
        left_out, having = Counter[str](), Counter[str]()
        for row, missing in zip(rows, self.left_out(rows), strict=True):
            left_out.update(missing)
            having.update(_values(self.process, row).keys() & set(self.paths))
        return {path: round(1 - left_out[path] / having[path], 4) for path in self.paths if having[path]}

    def left_out(self, rows: Sequence[Told]) -> list[list[str]]:
        """The paths of the values that each text leaves out; none of a text that is too long to be read as a whole."""
        found = [list[str]() for _ in rows]
        for half, columns in enumerate(reversed(self._halves)):
            asked = _readable(rows, half)
            if not asked or not self.paths:
                continue
            values = [_values(self.process, rows[at]) for at in asked]
            texts = [_masked(self.process, rows[at], self._few_valued) for at in asked]
            features = columns[self.paths[0]].regression.features(texts)  # those of a half's columns are the same
            for path in self.paths:
                for at, missing in zip(asked, _missing(columns[path], features, [each.get(path) for each in values]), strict=True):
                    found[at] += [path] * missing
        return found


def _missing(column: Column, features: Any, values: Sequence[str | None]) -> list[bool]:
    """Whether each text hardly speaks for its record's value."""
    told = column.regression.log_chances(features)
    numbers = np.array([column.numbers.get(value, -1) if value is not None else -1 for value in values])
    odds = _odds(np.exp(told[np.arange(len(numbers)), numbers]))
    return [bool(missing) for missing in (numbers >= 0) & (odds < column.untold[numbers] + HARDLY)]


def _odds(chances: Any) -> Any:
    """Log-odds."""
    from scipy.special import logit

    return logit(np.clip(chances, 1e-9, 1 - 1e-9))


def _learned(process: Process, rows: Sequence[Told], paths: Sequence[str]) -> dict[str, Column]:
    """Path -> what these texts know of it; nothing where they have no words."""
    counts = counted([_masked(process, row, paths) for row in rows]) if rows and paths else None
    if counts is None or not counts.nnz:
        return {}
    values = [_values(process, row) for row in rows]
    buckets, rarity = vocabulary_of(counts, MOST_VALUES)
    features, found = weighted(counts, buckets, rarity), dict[str, Column]()
    for path in paths:
        answers = [each.get(path, ABSENT) for each in values]
        often = Counter(answers)
        numbers = {value: number for number, value in enumerate(sorted(often))}
        if len(numbers) < 2 or max(count for value, count in often.items() if value != ABSENT) < FEWEST:
            continue
        weights, bias = settled(features, [numbers[answer] for answer in answers], len(numbers), STRENGTH)
        untold = [_odds(often[value] / len(rows)) if often[value] >= FEWEST else -np.inf for value in numbers]
        found[path] = Column(numbers, Linear(buckets, weights, bias, UNWEIGHED, rarity), np.array(untold))
    return found


def spread(rows: Iterable[Any], most: int) -> list[Any]:
    """Half of so many rows at least, all alike far apart; all where they are no more."""
    kept, apart = list[Any](), 1
    for number, row in enumerate(rows):
        if number % apart:
            continue
        kept.append(row)
        if len(kept) > most:
            kept, apart = kept[::2], 2 * apart
    return kept


def _few_valued(process: Process, rows: Sequence[Told]) -> list[str]:
    """Paths of few values, sorted."""
    seen, often = dict[str, set[str]](), Counter[str]()
    for row in rows:
        for path, value in _values(process, row).items():
            often[path] += 1
            if len(known := seen.setdefault(path, set())) <= MOST_VALUES:
                known.add(value)
    few = [path for path, _ in often.most_common() if len(seen[path]) <= MOST_VALUES]
    return sorted(few[:MOST_COLUMNS])


def _values(process: Process, row: Told) -> dict[str, str]:
    """Path -> value as text, folded, yes and no among them."""
    return {path: fold(value) for path, value in leaves_of(process, row.inputs, flags=True)}


def _masked(process: Process, row: Told, few_valued: Sequence[str]) -> str:
    """A text without names: "at the Indian House" says nothing of the food."""
    text = fold(row.output)
    names = {fold(value) for path, value in leaves_of(process, row.inputs) if path not in few_valued}
    for name in sorted(names, key=len, reverse=True):
        for start, end in reversed(list(occurrences(text, name, [(0, len(text))]))):
            text = f"{text[:start]} {text[end:]}"
    return text


def _readable(rows: Sequence[Told], half: int) -> list[int]:
    """Where the texts of a half stand that are short enough to be read as a whole."""
    return [at for at, row in enumerate(rows) if digest(row.record_id) & 1 == half and len(row.output) <= CHARACTERS]
