"""Spans: values that stand word for word in a text -> a mark for each of its tokens; and marks -> the values again.

A mark says of which fields' values a token is a part: `B:city` begins a city, `I:city` goes on with one; a token of two values
that overlap has both, and most tokens have none. Nothing depends on blanks: a token may be a word, a digit or one Chinese character.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Region = tuple[int, int]  # characters from .. to, of a text
Spelling = str | Region  # a value's text, to be looked for, or where it stands
Mark = tuple[str, ...]  # sorted; () for a token of no value
BEGIN, INSIDE = "B:", "I:"


def fields_of(mark: Mark) -> set[str]:
    """The fields of whose values a token with this mark is a part."""
    return {name[2:] for name in mark}


def trimmed(text: str, offsets: Sequence[Region]) -> list[Region]:
    """Each token's characters without the blanks around them; tokens of blanks alone are empty."""
    found = []
    for start, end in offsets:
        inner = text[start:end]
        found.append((start + len(inner) - len(inner.lstrip()), start + len(inner.rstrip())))
    return found


def occurrences(text: str, value: str, regions: Sequence[Region]) -> Iterator[Region]:
    """Where a value stands in the regions as a whole: 12 is not found in 2012, nor art in part."""
    for begin, end in regions:
        start = text.find(value, begin, end) if value else -1
        while start >= 0:
            if not _goes_on(text, start) and not _goes_on(text, start + len(value)):
                yield start, start + len(value)
            start = text.find(value, start + 1, end)


def _goes_on(text: str, at: int) -> bool:
    """Whether a word or a number stands on both sides of a place; Chinese characters are a word each."""
    if not 0 < at < len(text):
        return False
    before, after = text[at - 1], text[at]
    return (before.isdigit() and after.isdigit()) or (_is_letter(before) and _is_letter(after))


def _is_letter(character: str) -> bool:
    return character.isalpha() and ord(character) < 0x2E80  # scripts from there on are written without blanks


def _standing(text: str, spelling: Spelling, regions: Sequence[Region]) -> Iterator[Region]:
    """Where a spelling stands in the regions."""
    if isinstance(spelling, str):
        yield from occurrences(text, spelling, regions)
    elif any(begin <= spelling[0] and spelling[1] <= end for begin, end in regions):
        yield spelling


def place(text: str, regions: Sequence[Region], values: Sequence[tuple[str, Sequence[Spelling]]]) -> list[tuple[str, Region] | None]:
    """A place for each value: the first one where no other value stands, else the first that its field has not taken.

    Args:
        values: (field, spellings of one value, the likeliest first), in the order of the fields.

    Returns:
        Field and place of each value; None for one that stands nowhere.
    """
    taken: list[tuple[str, Region]] = []
    found: list[tuple[str, Region] | None] = []
    for field, spellings in values:
        there = [region for spelling in spellings for region in _standing(text, spelling, regions)]
        own = [region for region in there if not any(name == field and _overlap(region, other) for name, other in taken)]
        free = [region for region in own if not any(_overlap(region, other) for _, other in taken)]
        chosen = next(iter(free or own), None)
        found.append(chosen and (field, chosen))
        if chosen:
            taken.append((field, chosen))
    return found


def _overlap(one: Region, other: Region) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def regions_at(tokens: Sequence[Region], regions: Sequence[Region]) -> list[int | None]:
    """The number of the region that each token belongs to, wholly or in part; the last one of several, None where there is none.

    Args:
        regions: one behind the other; to an empty one nothing belongs.
    """
    found: list[int | None] = []
    numbered = [(*region, number) for number, region in enumerate(regions) if region[0] < region[1]]
    for start, end in tokens:
        at = bisect_left(numbered, (end,)) - 1  # the last one that begins before the token's end
        found.append(numbered[at][2] if at >= 0 and start < numbered[at][1] else None)
    return found


def marks_of(tokens: Sequence[Region], placed: Sequence[tuple[str, Region]]) -> list[Mark]:
    """The mark of each token.

    Args:
        tokens: as `trimmed` gives them.
        placed: fields and the places of their values; two values of one field do not overlap.
    """
    marks: list[set[str]] = [set() for _ in tokens]
    for field, region in placed:
        inside = [index for index, token in enumerate(tokens) if token[0] < token[1] and _overlap(token, region)]
        for index in range(inside[0], inside[-1] + 1) if inside else ():  # a blank that is a token goes on with the value around it
            if not {BEGIN + field, INSIDE + field} & marks[index]:
                marks[index].add((BEGIN if index == inside[0] else INSIDE) + field)
    return [tuple(sorted(mark)) for mark in marks]


def joined(text: str, tokens: Sequence[Region]) -> list[bool]:
    """Whether each token goes on with the word, the number or the character of the token before it; no value begins or ends there."""
    found = []
    for (_, before), (start, end) in zip([(0, 0), *tokens], tokens, strict=False):
        found.append(start < end and (start < before or (start == before and _goes_on(text, start))))
    return found


def spans_of(marks: Sequence[Mark], field: str) -> list[tuple[int, int]]:
    """First and last token of each value of a field; one that goes on without a beginning begins there."""
    found: list[tuple[int, int]] = []
    for index, mark in enumerate(marks):
        goes_on = INSIDE + field in mark and found and found[-1][1] == index - 1
        if goes_on:
            found[-1] = (found[-1][0], index)
        elif BEGIN + field in mark or INSIDE + field in mark:
            found.append((index, index))
    return found


class Follows:
    """Which mark may stand after which: a value goes on only where it has begun, and neither begins nor ends within a word."""

    def __init__(self, marks: Sequence[Mark]) -> None:
        fields = [fields_of(mark) for mark in marks]
        inside = [{name[2:] for name in mark if name.startswith(INSIDE)} for mark in marks]
        self._between = _penalty([[after <= before for after in inside] for before in fields])
        pairs = list(zip(fields, inside, strict=True))
        self._within = _penalty([[before == after == goes_on for after, goes_on in pairs] for before in fields])
        self._first = _penalty([not each for each in inside])

    def likeliest(self, log_probabilities: NDArray[np.float64], joined: Sequence[bool]) -> list[int]:
        """The likeliest row of marks that keeps the rule (Viterbi).

        Args:
            log_probabilities: (tokens, marks).
            joined: whether each token goes on with the word of the one before it.
        """
        if not len(log_probabilities):
            return []
        score, back = self._first + log_probabilities[0], []
        for row, within in zip(log_probabilities[1:], joined[1:], strict=True):
            reached = score[:, None] + (self._within if within else self._between)
            back.append(reached.argmax(0))
            score = reached.max(0) + row
        path = [int(score.argmax())]
        for step in reversed(back):
            path.append(int(step[path[-1]]))
        return path[::-1]


def _penalty(allowed: Sequence[Any]) -> NDArray[np.float64]:
    return np.where(np.array(allowed), 0.0, -np.inf)


def required_spans(shares: NDArray[np.float64], marks: Sequence[Mark], field: str, joined: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """Places of a value that must be somewhere, the likeliest first: a beginning, and on while going on is likelier than not.

    Args:
        shares: (tokens, marks), 0-1.
        joined: whether each token goes on with the word of the one before it.

    Returns:
        First and last token of each; none when there is no token.
    """
    begins, goes_on = ([name + field in mark for mark in marks] for name in (BEGIN, INSIDE))
    if not any(begins):
        return
    for start in np.argsort(-shares[:, begins].sum(1), kind="stable").tolist():
        first = last = start
        while joined[first]:
            first -= 1
        while last + 1 < len(shares) and (joined[last + 1] or (any(goes_on) and shares[last + 1, goes_on].sum() > 0.5)):
            last += 1
        yield first, last


def single(spans: Sequence[tuple[int, int]], certain: Mapping[tuple[int, int], float]) -> list[tuple[int, int]]:
    """Of several values where one is declared, the surest."""
    return [max(spans, key=lambda span: (certain[span], -span[0]))] if spans else []


def spellings(value: Any, text: str, cleaned: str) -> list[str]:
    """How a value may be written: as it is, as cleaning leaves it, a large number with commas."""
    found = [text, cleaned]
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) >= 1000:
        found.append(f"{value:,}")
    return list(dict.fromkeys(found))
