"""Filling: what a model says of a form, token by token -> the declared fields; whatever it says, every field is as declared.

Only tokens that the declaration allows are ever chosen: one of a field's values, the characters of a number or a day, and then
the next field. Marked values are cut out of the prompt. So a form can be wrong, but it is always a form.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.beginnings import EXACT, begins
from tasks.forms import Writing, read_value
from tasks.process import OutputField
from tasks.prompts import regions_in
from tasks.spans import Follows, Region, fields_of, joined, regions_at, required_spans, single, spans_of, trimmed

NUMERAL = re.compile(r"[-0-9.]+")  # days, too
LEAST = 1e-12  # of a probability, whose logarithm is taken


@dataclass(slots=True)
class Filled:
    """Fields that were written or marked, and how likely (nats): all that was written; the least sure mark."""

    values: dict[str, Any] = field(default_factory=dict)
    log_probability: float = 0.0
    sure: dict[str, float] = field(default_factory=dict)  # of each field, present or absent: how likely it is right, 0-1


class Grammar:
    """Which tokens may be written where, for one form in one vocabulary."""

    def __init__(self, writing: Writing, eos: int) -> None:
        self.writing, self.eos = writing, eos
        tokens = writing.tokens
        special = {number for number, added in tokens.get_added_tokens_decoder().items() if added.special}
        self._texts = {number: tokens.decode([number]) for number in range(tokens.get_vocab_size()) if number not in special}
        self._known: dict[str, Tensor] = {}

    def only(self, name: str, takes: Callable[[str], bool]) -> Tensor:
        """The tokens of text that are taken; found once for each name."""
        if name not in self._known:
            self._known[name] = torch.tensor([number for number, text in self._texts.items() if takes(text)], dtype=torch.long)
        return self._known[name]

    def text(self, declared: OutputField, written: str, left: int) -> Tensor:
        """The tokens of text that may go on with a spelled value.

        Args:
            left: how many may be written, this one included.
        """
        if declared.type not in EXACT:
            return self.only("all", lambda text: True)[: None if left else 0]
        few = self.only("numeral", lambda text: NUMERAL.fullmatch(text) is not None).tolist() if left else []
        return torch.tensor([number for number in few if begins(declared, written + self._texts[number], left - 1)], dtype=torch.long)


class Guide:
    """The writing of one form under way: says which tokens come into question, and takes the one that was chosen."""

    def __init__(self, grammar: Grammar) -> None:
        self.grammar, self.writing = grammar, grammar.writing
        self.left = list(self.writing.form.written)
        self.name: str | None = None  # the field that is being written
        self.values: dict[str, list[list[int]]] = {}
        self.chances: dict[str, float] = {}  # nats

    def allowed(self) -> Tensor:
        """The tokens that may come next, one or more."""
        writing = self.writing
        if self.name is None:
            return torch.tensor([writing.field_ids[self.left[0]] if self.left else self.grammar.eos])
        declared, items = writing.fields[self.name], self.values[self.name]
        if writing.form.how[self.name] == "chosen":
            return self._choices(declared, items)
        left = max(0, writing.form.longest[self.name] - len(items[-1]))
        going = self.grammar.text(declared, writing.tokens.decode(items[-1]), left)
        return torch.cat([going, torch.tensor(self._ends(declared, items, not len(going)), dtype=torch.long)])

    def _choices(self, declared: OutputField, items: list[list[int]]) -> Tensor:
        choices = self.writing.choice_ids[self.name or ""]
        if declared.list and items[-1]:
            return torch.tensor(self._ends(declared, items, False))
        absent = [self.writing.absent] if (declared.optional and len(items) == 1) or not choices else []
        return torch.tensor([*choices, *absent])

    def _ends(self, declared: OutputField, items: list[list[int]], forced: bool) -> list[int]:
        """What may stand behind the tokens of a value so far."""
        if not items[-1]:
            return [self.writing.absent] if len(items) == 1 and (declared.optional or forced) else []
        if declared.type in EXACT and not forced and self._value(self.name or "", items[-1]) is None:
            return []
        more = declared.list and len(items) < self.writing.form.items[self.name or ""]
        return [self.writing.next, *([self.writing.also] if more else [])]

    def take(self, token: int, log_probability: float = 0.0) -> None:
        """Go on behind a token that was allowed, and how likely it was among those (nats)."""
        writing = self.writing
        if self.name is not None:
            self.chances[self.name] = self.chances.get(self.name, 0.0) + log_probability
        if self.name is None:
            self.name = self.left.pop(0) if self.left else None
            if self.name:
                self.values[self.name] = [[]]
            return
        if token in (writing.next, writing.absent):
            self.name = None
        elif token == writing.also:
            self.values[self.name].append([])
        else:
            self.values[self.name][-1].append(token)
            if writing.form.how[self.name] == "chosen" and not writing.fields[self.name].list:
                self.name = None

    def output(self) -> dict[str, Any]:
        """The fields written so far; a value that the declaration would not take is left out."""
        found: dict[str, Any] = {}
        for name, items in self.values.items():
            values = [value for item in items if item and (value := self._value(name, item)) is not None]
            if values:
                found[name] = values if self.writing.fields[name].list else values[0]
        return found

    def sure(self) -> dict[str, float]:
        """How likely each field is all that was written of it."""
        return {name: likelihood(chance) for name, chance in self.chances.items()}

    def _value(self, name: str, ids: list[int]) -> Any:
        if self.writing.form.how[name] == "chosen":
            return self.writing.form.choices[name][self.writing.choice_ids[name].index(ids[0])]
        return read_value(self.writing.fields[name], self.writing.tokens.decode(ids).strip())


@dataclass(frozen=True, slots=True)
class Reading:
    """A prompt, and what a model says of its tokens."""

    prompt: str
    tokens: Sequence[Region]
    shares: NDArray[np.float64]  # (tokens, marks), 0-1
    path: Sequence[int]  # the likeliest marks
    together: Sequence[bool]  # whether each token goes on with the word of the one before it
    outside: NDArray[np.bool_]  # whether it belongs to the template

    def value(self, declared: OutputField, span: tuple[int, int]) -> Any:
        """What is stated from a first to a last token; None when it is no value of the field."""
        return read_value(declared, self.prompt[self.tokens[span[0]][0] : self.tokens[span[1]][1]])

    @property
    def certain(self) -> NDArray[np.float64]:
        """How likely the likeliest marks are right."""
        return self.shares[np.arange(len(self.path)), self.path] if self.path else np.zeros(0)


class Marker:
    """Marks of a prompt's tokens -> the values that are marked there."""

    def __init__(self, writing: Writing) -> None:
        self.writing, self.marks = writing, writing.form.marks
        self._follows = Follows(self.marks)
        self._columns = {name: [at for at, mark in enumerate(self.marks) if name in fields_of(mark)] for name in writing.form.marked}

    def fill(self, prompt: str, offsets: Sequence[Region], log_probabilities: NDArray[np.float64]) -> Filled:
        """The marked fields of one prompt.

        Args:
            offsets: characters of each of its tokens.
            log_probabilities: (tokens, marks).
        """
        tokens = trimmed(prompt, offsets)
        outside, together = self._outside(prompt, tokens), joined(prompt, tokens)
        log_probabilities = np.where(outside[:, None], np.where(np.arange(len(self.marks)) == 0, 0.0, -np.inf), log_probabilities)
        path = self._follows.likeliest(log_probabilities, together)
        read = Reading(prompt, tokens, np.exp(log_probabilities), path, together, outside)
        found = Filled()
        for name in self.writing.form.marked:
            values, found.sure[name] = self._field(name, read)
            if values:
                found.values[name] = values if self.writing.fields[name].list else values[0]
        found.log_probability = math.log(max(LEAST, min([*read.certain.tolist(), *found.sure.values()])))
        return found

    def _field(self, name: str, read: Reading) -> tuple[list[Any], float]:
        """A field's values, and how likely they are all of them."""
        declared, certain = self.writing.fields[name], read.certain
        stated = {span: read.value(declared, span) for span in spans_of([self.marks[number] for number in read.path], name)}
        sure = {span: float(certain[span[0] : span[1] + 1].min()) for span in stated}
        spans = [span for span, value in stated.items() if value is not None]
        values = [stated[span] for span in (spans if declared.list else single(spans, sure))]
        at_most = self._sure(name, read)
        if not values and not declared.optional:
            values, at_most = self._required(name, read)
        left_out = (sure[span] for span, value in stated.items() if value not in values)  # marked, but no value, or one too many
        return values, min(at_most, 1 - max(left_out, default=0.0))

    def _required(self, name: str, read: Reading) -> tuple[list[Any], float]:
        """The likeliest value of a field that must have one though none is marked, and how likely it is one; none where nothing fits."""
        for first, last in required_spans(read.shares, self.marks, name, read.together):
            value = None if read.outside[[first, last]].any() else read.value(self.writing.fields[name], (first, last))
            if value is not None:
                return [value], float(read.shares[first : last + 1, self._columns[name]].sum(axis=1).min())
        return [], 0.0

    def _outside(self, prompt: str, tokens: Sequence[Region]) -> NDArray[np.bool_]:
        """Whether each token belongs to the template's own words, which are no part of a value."""
        regions = regions_in(self.writing.process, prompt)
        return np.array([region is None for region in regions_at(tokens, regions)], dtype=bool)

    def _sure(self, name: str, read: Reading) -> float:
        """How likely its least sure mark is right; of a field without a mark, how likely the likeliest token is not one."""
        columns = self._columns[name]
        marked = [place for place, number in enumerate(read.path) if number in columns]
        if marked:
            return float(read.certain[marked].min())
        return float(1 - read.shares[:, columns].sum(axis=1).max()) if len(read.shares) and columns else 1.0


def ordered(writing: Writing, *parts: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of several parts in the order of the declaration."""
    both = {name: value for part in parts for name, value in part.items()}
    return {name: both[name] for name in writing.form.names if name in both}


def missing(writing: Writing, output: Mapping[str, Any]) -> list[str]:
    """Required fields without a value."""
    return [name for name, declared in writing.fields.items() if not declared.optional and name not in output]


def likelihood(*nats: float) -> float:
    """The probability of parts that are all right, 0-1."""
    return min(1.0, math.exp(math.fsum(nats)))
