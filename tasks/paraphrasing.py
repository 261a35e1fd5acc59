"""Paraphrasing: a training prompt -> the same with words around one of its values that change no answer, as declared.

"Hi, {message} Thanks." says that a message means the same with a greeting and thanks. Only the process knows that: where a label is how
polite somebody was, it is not so. Some of the prompts are shown in such words, others each time; marks stay on the tokens they were on.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from tokenizers import Encoding, Tokenizer

from tasks.batching import Row
from tasks.columns import Parts
from tasks.facts import PARTIAL, WHOLE
from tasks.process import PLACEHOLDER, Process
from tasks.prompts import between, clean, places_in
from tasks.spans import Region

Put = tuple[int, int]  # where in a text, how many characters
SHARE = 0.3  # of the samples, each time they are shown; the others stay as people wrote them
LOOKED_AT = 64  # rows, of which so many must be read back from their tokens, or what is said otherwise would be a choice of them
READ_BACK = 0.9


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
        self._ways = [_parts_of(process, template) for template in process.finetuning.paraphrases]
        self._between = between(process)
        self._told = {tokens.token_to_id(WHOLE), tokens.token_to_id(PARTIAL)} - {None}
        looked_at = rows[:LOOKED_AT]
        read = sum(self._read(row) is not None for row in looked_at)
        if read < READ_BACK * len(looked_at):
            raise ValueError(
                f"{process.name}: finetuning.paraphrases needs prompts that are read back from their tokens, and of {len(looked_at)} "
                f"samples only {read} are: the base's tokenizer changes what it reads, or values hold the words between two; leave them out"
            )

    def reworded(self, row: Row, random: np.random.Generator) -> Row:
        """A sample whose prompt asks the same, sometimes in other words."""
        if random.random() >= SHARE:
            return row
        way = self._ways[int(random.integers(len(self._ways)))]
        if (read := self._read(row)) is None or (found := self._said(read[0], *way)) is None:
            return row
        prompt, old = read
        said, put = found
        return self._marked(row, (prompt, old), (said, self._tokens.encode(said, add_special_tokens=False)), put)

    def _said(self, prompt: str, place: int, before: str, after: str) -> tuple[str, list[Put]] | None:
        """The prompt with words around one of its values, and what was put where; None where that value is empty, or unclear."""
        first, end = (places_in(self._process, prompt) or [])[place]
        value = prompt[first:end]
        said = clean(self._process, f"{before}{value}{after}")
        at = len(before) if said == f"{before}{value}{after}" else said.find(value)
        if not value or at < 0 or (at != len(before) and said.count(value) > 1):
            return None
        return f"{prompt[:first]}{said}{prompt[end:]}", [(first, at), (end, len(said) - at - len(value))]

    def _marked(self, row: Row, old: tuple[str, Sequence[Region]], new: tuple[str, Encoding], put: Sequence[Put]) -> Row:
        """The row with the new tokens of its prompt, and with its marks where they belong; as it was where they have no place."""
        asked, tail = self._parts.placed(*new), self._tail(row)
        rest = row.input_ids[row.prompt_tokens - len(tail) :]
        if len(asked) + len(rest) > self._longest:
            return row
        marks = moved(row.marks[: len(old[1])], old, new[1].offsets, put, self._nothing) if row.marks else []
        if marks is None:
            return row
        return replace(row, input_ids=[*asked, *rest], prompt_tokens=len(asked) + len(tail), marks=[*marks, *row.marks[len(old[1]) :]])

    def _read(self, row: Row) -> tuple[str, list[Region]] | None:
        """A prompt's text and where each of its tokens stands in it; None where it is not read back, or its values run into each other."""
        asked = list(row.input_ids[: row.prompt_tokens - len(self._tail(row))])
        prompt = self._tokens.decode([token for token in asked if token not in self._parts.ids], skip_special_tokens=False)
        encoding = self._tokens.encode(prompt, add_special_tokens=False)
        if not self._is_clear(prompt) or self._parts.placed(prompt, encoding) != asked:
            return None
        return prompt, encoding.offsets

    def _is_clear(self, prompt: str) -> bool:
        """Whether it is of the template, and no value holds the words that stand between two."""
        places = places_in(self._process, prompt)
        values = prompt[places[0][0] : places[-1][1]] if places else ""
        return places is not None and all(values.count(words) == self._between.count(words) for words in self._between)

    def _tail(self, row: Row) -> Sequence[int]:
        """What is said behind a prompt of the text that follows."""
        last = row.input_ids[row.prompt_tokens - 1 : row.prompt_tokens]
        return last if self._told.issuperset(last) else []


def _parts_of(process: Process, template: str) -> tuple[int, str, str]:
    """Which of the prompt's values a template is about, and the words before and after it."""
    match = next(found for found in PLACEHOLDER.finditer(template) if found[1] is not None)
    shown = [found[1].strip() for found in PLACEHOLDER.finditer(process.sample.prompt) if found[1] is not None]
    before, after = (PLACEHOLDER.sub(lambda brace: brace[0][0], part) for part in (template[: match.start()], template[match.end() :]))
    return shown.index(match[1].strip()), before, after


def moved(
    marks: Sequence[int], old: tuple[str, Sequence[Region]], new: Sequence[Region], put: Sequence[Put], nothing: int
) -> list[int] | None:
    """The marks of a text's tokens once characters were put into it; None when a marked token is no longer one.

    Args:
        old: the text, and where each token stands in it, in characters from .. to.
        new: the same afterwards.
        put: in the order of the text.
    """
    waiting: dict[Region | None, list[int]] = {}
    for mark, region in zip(marks, old[1], strict=True):
        waiting.setdefault(_shifted(old[0], region, put), []).append(mark)
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
