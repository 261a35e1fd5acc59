"""Columns: what a table repeats is one token together with its name, and a number says in which part of its range it stands.

A form of twenty columns is then twenty tokens long, not a hundred and fifty, and a small model need not learn from a few hundred
records what letters and digits mean. For labels from scratch; a base model knows words, and fields are marked word by word.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from tokenizers import Tokenizer

from tasks.process import PLACEHOLDER, Process
from tasks.records import NUMBER, are_numbers, as_text

if TYPE_CHECKING:
    from tasks.tokenising import Sample

LOOK_AT = 50_000  # samples
MOST_VALUES, MOST_NUMBERS = 64, 12  # of a column, that are tokens of their own
OFTEN = 5  # records that a value must stand in
LONGEST = 60  # characters of a value
NAME = 2  # characters that tell one column from another, at least
PARTS = 8  # of a number's range, each with as many records
PART_TOKEN = "<|part:{}|>"  # noqa: S105 - a token of a vocabulary


@dataclass(frozen=True, slots=True)
class Columns:
    """What is known of a table's columns."""

    tokens: tuple[str, ...] = ()  # names, and names with a value
    parts: dict[str, list[float]] = field(default_factory=dict)  # name of a column of numbers -> where its parts meet
    whole: bool = False  # whether the prompt has no other columns: no text, from whose words something could be learned

    @property
    def part_tokens(self) -> list[str]:
        """The tokens that say in which part of its range a number stands."""
        return [PART_TOKEN.format(part) for part in range(PARTS)] if self.parts else []

    @classmethod
    def read(cls, found: Mapping[str, Any] | None) -> Self:
        """Of a contract; versions without one know no columns."""
        return cls(tuple(found["tokens"]), dict(found["parts"]), found["whole"]) if found else cls()


class Parts:
    """Puts the part of its range before each number of a prompt."""

    def __init__(self, columns: Columns, tokens: Tokenizer) -> None:
        self.edges = {tokens.token_to_id(name): edges for name, edges in columns.parts.items()}
        self.ids = [tokens.token_to_id(token) for token in columns.part_tokens]

    def placed(self, prompt: str, encoding: Any) -> list[int]:
        """The tokens of a prompt with those parts among them."""
        if not self.edges or self.edges.keys().isdisjoint(encoding.ids):
            return list(encoding.ids)
        found = []
        for token, (_, end) in zip(encoding.ids, encoding.offsets, strict=True):
            found.append(token)
            if (edges := self.edges.get(token)) and (number := NUMBER.match(prompt, end)):
                found.append(self.ids[bisect_right(edges, float(number[0]))])
        return found


def learn_columns(process: Process, samples: Iterable["Sample"]) -> Columns:
    """The columns of the training samples, where labels are tokens; the same samples give the same columns."""
    if not process.label_tokens:
        return Columns()
    names, known = names_of(process.sample.prompt), 0
    seen: dict[str, Counter[str]] = {path: Counter() for path in names}
    for sample in islice(samples, LOOK_AT):
        for path, counted in seen.items():
            counted[as_text(sample.inputs.get(path))] += 1
    tokens, parts = list[str](), dict[str, list[float]]()
    for path, name in names.items():
        numbers = are_numbers(seen[path].keys() - {""})
        if len(seen[path]) <= (MOST_NUMBERS if numbers else MOST_VALUES):
            known += 1
            tokens += [name + value for value, count in sorted(seen[path].items()) if count >= OFTEN and len(value) <= LONGEST]
        elif numbers and (edges := edges_of(seen[path])):
            known += 1
            tokens.append(name)
            parts[name] = edges
    return Columns(tuple(tokens), parts, known == len(process.input_columns))


def names_of(template: str) -> dict[str, str]:
    """Path -> what stands before its value in the prompt, for those that no other has."""
    found, before, last = dict[str, str](), "", 0
    for match in PLACEHOLDER.finditer(template):
        before += template[last : match.start()]
        if match[1] is None:
            before += match[0][0]
        else:
            found.setdefault(match[1].strip(), before)
            before = ""
        last = match.end()
    often = Counter(found.values())
    return {path: name for path, name in found.items() if often[name] == 1 and len(name.strip()) >= NAME}


def edges_of(counted: Mapping[str, int]) -> list[float]:
    """Where the parts of a range meet, PARTS - 1 or fewer: each part has about as many records as the next."""
    values = sorted((float(value), count) for value, count in counted.items() if NUMBER.fullmatch(value))
    below = np.cumsum([count for _, count in values])
    wanted = below[-1] * np.arange(1, PARTS) / PARTS
    places = np.searchsorted(below, wanted, side="right").tolist()
    found = sorted({values[min(place, len(values) - 1)][0] for place in places})
    return [upper for lower, upper in pairwise([values[0][0], *found]) if upper > lower]
