"""Swapping: the values marked in a training sample -> other values of the same field: where a value stands is learned, not which.

A value is put in the place of another one with the marks it had, in both readings of the prompt; so what the sample teaches stays
true. Some values become words and digits drawn at random: a name that nobody has seen is then nothing special.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from tokenizers import Tokenizer

from tasks.batching import Row
from tasks.forms import Writing
from tasks.spans import BEGIN, INSIDE

SEEN = 3  # samples of a value, from which on they show what goes with it
EVIDENCE = 30  # such samples, without which nothing is concluded
DECIDES = 0.7  # of what the most frequent answer leaves open: a field whose values settle so much of another's is not exchanged
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
        longest: tokens of a sample; one that became longer stays as it was.
    """

    def __init__(self, rows: Sequence[Row], writing: Writing, share: float, invented: float, longest: int) -> None:
        self._longest = longest
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
        self._fixed = {name for name in self._pools if self._decides(name, rows, writing)}

    def _decides(self, name: str, rows: Sequence[Row], writing: Writing) -> bool:
        """Whether a field's value settles one that is written, as a city does its country: then an exchange would make that one wrong."""
        seen: dict[tuple[tuple[int, ...], str], Counter[tuple[int, ...]]] = {}
        for row in rows:
            values = {tuple(row.input_ids[first:end]) for other, first, end in self._spans(row) if other == name}
            for field_name, written in written_fields(row, writing) if len(values) == 1 else ():
                seen.setdefault((next(iter(values)), field_name), Counter())[written] += 1
        return any(_settled(field_name, seen) for field_name in writing.form.written)

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
            if random.random() >= self._share or name in self._fixed:
                continue
            value = self._other(name, tuple(row.input_ids[first:end]), random)
            inside = next(number for number, other in self._inside.items() if other == name)
            ids += [*row.input_ids[done:first], *value]
            marks += [*row.marks[done : first + 1], *[inside] * (len(value) - 1)]
            done = end
        if not done or len(ids) + len(row.input_ids) - done > self._longest:
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


def written_fields(row: Row, writing: Writing) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Each chosen or spelled field of a sample, and the tokens of its value."""
    names = {token: name for name, token in writing.field_ids.items()}
    completion = row.input_ids[row.prompt_tokens + 1 :]
    starts = [place for place, token in enumerate(completion) if token in names]
    for start, end in zip(starts, [*starts, len(completion)][1:], strict=True):
        yield names[completion[start]], tuple(completion[start + 1 : end])


def _settled(field_name: str, seen: Mapping[tuple[tuple[int, ...], str], Counter[tuple[int, ...]]]) -> bool:
    """Whether the values seen often enough leave little of a written field open."""
    often = [counts for (_, name), counts in seen.items() if name == field_name and counts.total() >= SEEN]
    total = sum(counts.total() for counts in often)
    if total < EVIDENCE:
        return False
    overall = sum(often, Counter[tuple[int, ...]]()).most_common(1)[0][1] / total
    known = sum(counts.most_common(1)[0][1] for counts in often) / total
    return known - overall > DECIDES * (1 - overall) > 0


class CopySwaps:
    """Exchanges values that a text has copied from its prompt, in both at once: what is written is what is read.

    Args:
        share: of the values, 0-1, that are exchanged.
        invented: of those, 0-1, the share that is put together from two values, with other digits.
        longest: tokens of a sample; one that became longer stays as it was.
    """

    def __init__(self, rows: Sequence[Row], tokens: Tokenizer, share: float, invented: float, longest: int) -> None:
        self._tokens, self._share, self._invented, self._longest = tokens, share, invented, longest
        self._values: dict[int, list[str]] = {}
        for row in rows:
            for number, first, end in _copies(row):
                values = self._values.setdefault(number, [])
                if first < row.prompt_tokens and len(values) < POOL:
                    values.append(tokens.decode(row.input_ids[first:end]).strip())

    def swapped(self, row: Row, random: np.random.Generator) -> Row:
        """A sample with some of its values exchanged."""
        chosen: dict[int, str] = {}
        for number in dict.fromkeys(number for number, *_ in _copies(row)):
            if random.random() < self._share and self._values.get(number):
                chosen[number] = self._other(self._values[number], random)
        if not chosen:
            return row
        ids, done, prompt_tokens = list[int](), 0, row.prompt_tokens
        for number, first, end in _copies(row):
            if number not in chosen:
                continue
            spaced = self._tokens.decode([row.input_ids[first]]).startswith(" ")
            value = self._tokens.encode(f"{' ' * spaced}{chosen[number]}", add_special_tokens=False).ids
            ids += [*row.input_ids[done:first], *value]
            prompt_tokens += len(value) - (end - first) if first < row.prompt_tokens else 0
            done = end
        ids += row.input_ids[done:]
        return Row(ids, prompt_tokens) if len(ids) <= self._longest else row

    def _other(self, values: Sequence[str], random: np.random.Generator) -> str:
        one, other = (values[int(random.integers(len(values)))] for _ in range(2))
        if random.random() >= self._invented:
            return one
        mixed = [*one.split()[:-1], other.split()[-1]] if one.split() and other.split() else [one]
        digits = [str(random.integers(1, 10)) if letter.isdecimal() and letter.isascii() else letter for letter in " ".join(mixed)]
        return "".join(digits)


def _copies(row: Row) -> Iterator[tuple[int, int, int]]:
    """(number of the column, first token, behind the last) of every copied value, left to right."""
    place = 0
    while place < len(row.marks):
        number, first = row.marks[place], place
        place += 1
        if not number or number % 2:
            continue
        while place < len(row.marks) and row.marks[place] == number + 1:
            place += 1
        yield number, first, place
