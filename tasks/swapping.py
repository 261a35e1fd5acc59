"""Swapping: the values marked in a training sample -> other values of the same field: where a value stands is learned, not which.

A value is put in the place of another one with the marks it had, in both readings of the prompt; so what the sample teaches stays
true. Some values become words and digits drawn at random: a name that nobody has seen is then nothing special.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from tasks.batching import Row
from tasks.forms import Writing
from tasks.spans import BEGIN, INSIDE

OPEN_SHARE = 0.1  # different values for each occurrence, from which on a field's values are not all known
POOL = 20_000  # values kept of a field
Span = tuple[str, int, int]  # field, first token, behind the last


@dataclass(slots=True)
class Pool:
    """The values of one field, in tokens; those that begin with a blank apart from the others."""

    values: dict[bool, list[tuple[int, ...]]] = field(default_factory=lambda: {True: [], False: []})
    counts: Counter[tuple[int, ...]] = field(default_factory=Counter)

    def add(self, ids: tuple[int, ...], spaced: bool) -> None:
        """Take in one occurrence."""
        if len(self.values[spaced]) < POOL:
            self.values[spaced].append(ids)
        self.counts[ids] += 1

    @property
    def is_open(self) -> bool:
        """Whether values turn up that were never seen before."""
        return len(self.counts) > OPEN_SHARE * self.counts.total()


class Swaps:
    """Exchanges values between training samples.

    Args:
        share: of the values, 0-1, that are exchanged.
        invented: of those of open fields, 0-1, the share that becomes random words and digits instead.
    """

    def __init__(self, rows: Sequence[Row], writing: Writing, share: float, invented: float) -> None:
        self._share, self._invented, self._begin, self._inside = share, invented, dict[int, str](), dict[int, str]()
        for mark, number in zip(writing.form.marks, writing.mark_ids, strict=True):
            if len(mark) == 1:  # a token of two values stays what it is
                kind = self._begin if mark[0].startswith(BEGIN) else self._inside
                kind[number] = mark[0].removeprefix(BEGIN).removeprefix(INSIDE)
        self._read_vocabulary(writing)
        self._pools = {name: Pool() for name in writing.form.marked}
        for row in rows:
            for name, first, end in self._spans(row):
                self._pools[name].add(tuple(row.input_ids[first:end]), row.input_ids[first] in self._spaced)

    def _read_vocabulary(self, writing: Writing) -> None:
        """Which tokens begin with a blank, and which are alike: digits, and words."""
        tokens = writing.tokens
        special = tokens.get_added_tokens_decoder()
        texts = {number: tokens.decode([number]) for number in range(tokens.get_vocab_size()) if number not in special}
        self._spaced = {number for number, text in texts.items() if text.startswith(" ")}
        self._alike: dict[int, list[int]] = {}
        for takes in (str.isdigit, str.isalpha):
            for spaced in (True, False):
                group = [number for number, text in texts.items() if takes(text.strip()) and (number in self._spaced) == spaced]
                self._alike |= dict.fromkeys(group, group)

    def _spans(self, row: Row) -> Iterator[Span]:
        """The marked values of a sample, left to right, but for those that share a token with another."""
        place = 0
        while place < len(row.marks):
            name, first = self._begin.get(row.marks[place]), place
            place += 1
            if name is None:
                continue
            while place < len(row.marks) and self._inside.get(row.marks[place]) == name:
                place += 1
            yield name, first, place

    def swapped(self, row: Row, random: np.random.Generator) -> Row:
        """A sample with some of its values exchanged."""
        ids, marks, done = list[int](), list[int](), 0
        for name, first, end in self._spans(row):
            if random.random() >= self._share:
                continue
            value = self._other(name, tuple(row.input_ids[first:end]), random)
            inside = next(number for number, other in self._inside.items() if other == name)
            ids += [*row.input_ids[done:first], *value]
            marks += [*row.marks[done : first + 1], *[inside] * (len(value) - 1)]
            done = end
        if not done:
            return row
        ids += row.input_ids[done : row.prompt_tokens]
        return Row([*ids, *row.input_ids[row.prompt_tokens :]], len(ids), [*marks, *row.marks[done:]])

    def _other(self, name: str, ids: tuple[int, ...], random: np.random.Generator) -> tuple[int, ...]:
        pool = self._pools[name]
        others = pool.values[ids[0] in self._spaced]
        chosen = others[int(random.integers(len(others)))] if others else ids
        if pool.is_open and random.random() < self._invented:
            return tuple(self._draw(number, random) for number in chosen)
        return chosen

    def _draw(self, number: int, random: np.random.Generator) -> int:
        alike = self._alike.get(number, [number])
        return alike[int(random.integers(len(alike)))]
