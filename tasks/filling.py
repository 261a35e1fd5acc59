"""Filling: what a model says of a form, token by token -> the declared fields; whatever it says, every field is as declared.

Only tokens that the declaration allows are ever chosen: one of a field's values, the characters of a number or a day, and then
the next field. Marked values are cut out of the prompt. So a form can be wrong, but it is always a form.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.beginnings import EXACT, begins
from tasks.forms import Writing, read_value
from tasks.process import OutputField
from tasks.prompts import regions_in
from tasks.spans import Follows, Region, fields_of, joined, required_spans, single, spans_of, trimmed

NUMERAL = re.compile(r"[-0-9.]+")  # days, too


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


class Marker:
    """Marks of a prompt's tokens -> the values that are marked there."""

    def __init__(self, writing: Writing) -> None:
        self.writing, self.marks = writing, writing.form.marks
        self._follows = Follows(self.marks)

    def fill(self, prompt: str, offsets: Sequence[Region], log_probabilities: NDArray[np.float64]) -> Filled:
        """The marked fields of one prompt.

        Args:
            offsets: characters of each of its tokens.
            log_probabilities: (tokens, marks).
        """
        tokens = trimmed(prompt, offsets)
        outside = self._outside(prompt, tokens)
        log_probabilities = np.where(outside[:, None], np.where(np.arange(len(self.marks)) == 0, 0.0, -np.inf), log_probabilities)
        together = joined(prompt, tokens)
        path = self._follows.likeliest(log_probabilities, together)
        likely = float(log_probabilities[np.arange(len(path)), path].min()) if path else 0.0
        found, shares = Filled({}, likely), np.exp(log_probabilities)
        marks = [self.marks[number] for number in path]
        certain = shares[np.arange(len(path)), path] if path else np.zeros(0)
        for name in self.writing.form.marked:
            declared = self.writing.fields[name]
            spans = [span for span in spans_of(marks, name) if self._read(declared, prompt, tokens, span) is not None]
            if not declared.list:
                spans = single(spans, {span: float(certain[span[0] : span[1] + 1].min()) for span in spans})
            if not spans and not declared.optional:
                likely_ones = required_spans(shares, self.marks, name, together)
                inside = (span for span in likely_ones if not outside[list(span)].any())
                spans = list(islice((span for span in inside if self._read(declared, prompt, tokens, span) is not None), 1))
            values = [value for span in spans if (value := self._read(declared, prompt, tokens, span)) is not None]
            if values:
                found.values[name] = values if declared.list else values[0]
            found.sure[name] = self._sure(name, path, certain, shares)
        return found

    def _outside(self, prompt: str, tokens: Sequence[Region]) -> NDArray[np.bool_]:
        """Whether each token belongs to the template's own words, which are no part of a value."""
        regions = regions_in(self.writing.process, prompt)
        return np.array([not any(start < to and at < end for at, to in regions) for start, end in tokens], dtype=bool)

    def _sure(self, name: str, path: Sequence[int], certain: NDArray[np.float64], shares: NDArray[np.float64]) -> float:
        """How likely its least sure mark is right; of a field without a mark, how likely the likeliest token is not one."""
        columns = [number for number, mark in enumerate(self.marks) if name in fields_of(mark)]
        marked = [place for place, number in enumerate(path) if number in columns]
        if marked:
            return float(certain[marked].min())
        return float(1 - shares[:, columns].sum(axis=1).max()) if len(shares) and columns else 1.0

    def _read(self, declared: OutputField, prompt: str, tokens: Sequence[Region], span: tuple[int, int]) -> Any:
        return read_value(declared, prompt[tokens[span[0]][0] : tokens[span[1]][1]])


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
