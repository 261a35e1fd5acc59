"""Paraphrasing: a training prompt -> the same with words around one of its values that change no answer, as declared.

"Hi, {message} Thanks." says that a message means the same with a greeting and thanks. Only the process knows that: where a label is how
polite somebody was, it is not so. Some of the prompts are shown in such words, others each time; marks stay on the tokens they were on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from tokenizers import Encoding, Tokenizer

from tasks.batching import Row
from tasks.columns import Parts
from tasks.facts import PARTIAL, WHOLE
from tasks.process import Process, named_in
from tasks.prompts import clean, own_words, places_in
from tasks.spans import Region

Put = tuple[int, int]  # where in a text, how many characters
SHARE = 0.3  # of the samples, each time they are shown; the others stay as people wrote them
LOOKED_AT = 64  # rows, the first ones
READ_BACK = 0.9  # of these, or what is said otherwise would be a choice of them


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt that was read back from its tokens."""

    text: str
    offsets: Sequence[Region]  # where each token stands in it
    places: Sequence[Region]  # where each value does
    behind: int  # tokens that follow it and say what is asked for


class Paraphrases:
    """Says prompts in the declared ways.

    Args:
        parts: puts parts of ranges before the numbers of columns.
        rows: the first of the training samples.
        nothing: the mark of what is no value; None where nothing is marked.
        longest: tokens of a sample; one that would be longer stays as it was.

    Raises:
        ValueError: prompts are not read back from their tokens, so that few could be said otherwise.
    """

    def __init__(self, process: Process, tokens: Tokenizer, parts: Parts, rows: Sequence[Row], nothing: int | None, longest: int) -> None:
        self._process, self._tokens, self._parts, self._nothing, self._longest = process, tokens, parts, nothing or 0, longest
        self._ways = [_way(process, template) for template in process.finetuning.paraphrases]
        self._between = own_words(process.sample.prompt)[1:-1]
        self._told = {tokens.token_to_id(WHOLE), tokens.token_to_id(PARTIAL)} - {None}
        read = sum(self._read(row) is not None for row in rows)
        if read < READ_BACK * len(rows):
            raise ValueError(
                f"{process.name}: finetuning.paraphrases needs prompts that are read back from their tokens, and of {len(rows)} "
                f"samples only {read} are: the base's tokenizer changes what it reads, or values hold the words between two; leave them out"
            )

    def reworded(self, row: Row, random: np.random.Generator) -> Row:
        """A sample whose prompt asks the same, sometimes in other words."""
        if random.random() >= SHARE:
            return row
        place, before, after = self._ways[int(random.integers(len(self._ways)))]
        if (prompt := self._read(row)) is None or (found := self._said(prompt, place, before, after)) is None:
            return row
        said, put = found
        return self._marked(row, prompt, said, self._tokens.encode(said, add_special_tokens=False), put)

    def _said(self, prompt: Prompt, place: int, before: str, after: str) -> tuple[str, list[Put]] | None:
        """The prompt with words around one of its values, and what was put where; None where that value is empty, or unclear."""
        first, end = prompt.places[place]
        value = prompt.text[first:end]
        said = clean(self._process, f"{before}{value}{after}")
        at = len(before) if said == f"{before}{value}{after}" else said.find(value)
        if not value or at < 0 or (at != len(before) and said.count(value) > 1):
            return None
        return f"{prompt.text[:first]}{said}{prompt.text[end:]}", [(first, at), (end, len(said) - at - len(value))]

    def _marked(self, row: Row, prompt: Prompt, said: str, encoding: Encoding, put: Sequence[Put]) -> Row:
        """The row with the new tokens of its prompt, and with its marks where they belong; as it was where they have no place."""
        asked, rest = self._parts.placed(said, encoding), row.input_ids[row.prompt_tokens - prompt.behind :]
        if len(asked) + len(rest) > self._longest:
            return row
        count = len(prompt.offsets)
        marks = moved(row.marks[:count], prompt, encoding.offsets, put, self._nothing) if row.marks else []
        if marks is None:
            return row
        return replace(row, input_ids=[*asked, *rest], prompt_tokens=len(asked) + prompt.behind, marks=[*marks, *row.marks[count:]])

    def _read(self, row: Row) -> Prompt | None:
        """The prompt of a row; None where it is not read back, or its values run into each other."""
        behind = int(row.prompt_tokens > 0 and row.input_ids[row.prompt_tokens - 1] in self._told)
        asked = list(row.input_ids[: row.prompt_tokens - behind])
        text = self._tokens.decode([token for token in asked if token not in self._parts.ids], skip_special_tokens=False)
        places = self._places(text)
        if places is None:
            return None
        encoding = self._tokens.encode(text, add_special_tokens=False)
        return Prompt(text, encoding.offsets, places, behind) if self._parts.placed(text, encoding) == asked else None

    def _places(self, text: str) -> list[Region] | None:
        """Where the values stand; None when it is of another template, or a value holds the words that stand between two."""
        places = places_in(self._process, text)
        values = text[places[0][0] : places[-1][1]] if places else ""
        return places if all(values.count(words) == self._between.count(words) for words in self._between) else None


def _way(process: Process, template: str) -> tuple[int, str, str]:
    """Which of the prompt's values a template is about, and the words before and after it."""
    before, after = own_words(template)
    return named_in(process.sample.prompt).index(named_in(template)[0]), before, after


def moved(marks: Sequence[int], prompt: Prompt, new: Sequence[Region], put: Sequence[Put], nothing: int) -> list[int] | None:
    """The marks of a prompt's tokens once characters were put into it; None when a marked token is no longer one.

    Args:
        new: where each token stands afterwards, in characters from .. to.
        put: in the order of the text.
    """
    waiting: dict[Region | None, list[int]] = {}
    for mark, region in zip(marks, prompt.offsets, strict=True):
        waiting.setdefault(_shifted(prompt.text, region, put), []).append(mark)
    torn = waiting.pop(None, [])
    found = [waiting[region].pop(0) if waiting.get(region) else nothing for region in new]
    left = [mark for rest in (torn, *waiting.values()) for mark in rest if mark != nothing]
    return None if left else found


def _shifted(text: str, region: Region, put: Sequence[Put]) -> Region | None:
    """Where a token stands afterwards: behind all that was put before its end; None when something was put into its middle.

    A blank that it begins with is then the last one put.
    """
    first, end = region
    if any(many and first < where < end and text[first:where].strip() for where, many in put):
        return None
    by = sum(many for where, many in put if where < end)
    return first + by, end + by
