"""Paraphrasing: a training prompt -> the same with words around one of its values that change no answer, as declared.

"Hi, {message} Thanks." says that a message means the same with a greeting and thanks. Only the process knows that: where a label is how
polite somebody was, it is not so. Some of the prompts are shown in such words, others each time; marks stay on the tokens they were on.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from tokenizers import Encoding, Tokenizer

from tasks.batching import Row
from tasks.process import PLACEHOLDER, Process
from tasks.prompts import clean, values_in
from tasks.spans import Region

SHARE = 0.3  # of the samples, each time they are shown; the others stay as people wrote them
LOOKED_AT = 64  # rows, of which one at least must be text that is read back from its tokens


class Paraphrases:
    """Says prompts in the declared ways.

    Args:
        rows: the first of the training samples.
        nothing: the mark of what is no value; None where nothing is marked.
        longest: tokens of a sample; one that would be longer stays as it was.

    Raises:
        ValueError: no prompt of the rows is read back from its tokens, so none could be said otherwise.
    """

    def __init__(self, process: Process, tokens: Tokenizer, rows: Sequence[Row], nothing: int | None, longest: int) -> None:
        self._process, self._tokens, self._nothing, self._longest = process, tokens, nothing or 0, longest
        self._ways = [_parts(process, template) for template in process.finetuning.paraphrases]
        self._added = set(tokens.get_added_tokens_decoder())
        if not any(self._read(row) for row in rows[:LOOKED_AT]):
            raise ValueError(
                f"{process.name}: finetuning.paraphrases needs prompts that are read back from their tokens, and none is: a table's are "
                "columns, and some tokenizers of a base lose blanks; leave it out"
            )

    def reworded(self, row: Row, random: np.random.Generator) -> Row:
        """A sample whose prompt asks the same, sometimes in other words."""
        if random.random() >= SHARE:
            return row
        place, before, after = self._ways[int(random.integers(len(self._ways)))]
        if (found := self._read(row)) is None:
            return row
        prompt, old = found
        regions = values_in(self._process, prompt)
        first, end = regions[place] if place < len(regions) else (0, 0)
        said = clean(self._process, f"{before}{prompt[first:end]}{after}")
        at = said.find(prompt[first:end])
        if first == end or at < 0:
            return row
        new = self._tokens.encode(f"{prompt[:first]}{said}{prompt[end:]}", add_special_tokens=False)
        return self._marked(row, old, new, [(first, at), (end, len(said) - at - (end - first))])

    def _marked(self, row: Row, old: Sequence[Region], new: Encoding, put: Sequence[tuple[int, int]]) -> Row:
        """The row with the new tokens of its prompt, and with its marks where they belong; as it was where they have no place."""
        tail, behind = row.input_ids[len(old) :], row.prompt_tokens - len(old)
        if len(new.ids) + len(tail) > self._longest:
            return row
        marks = moved(row.marks[: len(old)], old, new.offsets, put, self._nothing) if row.marks else []
        if marks is None:
            return row
        return replace(row, input_ids=[*new.ids, *tail], prompt_tokens=len(new.ids) + behind, marks=[*marks, *row.marks[len(old) :]])

    def _read(self, row: Row) -> tuple[str, list[Region]] | None:
        """A prompt's text and where each of its tokens stands in it, without what is said behind it; None where it is not read back."""
        ids = list(row.input_ids[: row.prompt_tokens])
        while ids and ids[-1] in self._added:
            ids.pop()
        prompt = self._tokens.decode(ids, skip_special_tokens=False)
        encoding = self._tokens.encode(prompt, add_special_tokens=False)
        return (prompt, encoding.offsets) if ids and encoding.ids == ids else None


def _parts(process: Process, template: str) -> tuple[int, str, str]:
    """Which of the prompt's values a template is about, and the words before and after it."""
    match = next(found for found in PLACEHOLDER.finditer(template) if found[1] is not None)
    shown = [found[1].strip() for found in PLACEHOLDER.finditer(process.sample.prompt) if found[1] is not None]
    before, after = (PLACEHOLDER.sub(lambda brace: brace[0][0], part) for part in (template[: match.start()], template[match.end() :]))
    return shown.index(match[1].strip()), before, after


def moved(
    marks: Sequence[int], old: Sequence[Region], new: Sequence[Region], put: Sequence[tuple[int, int]], nothing: int
) -> list[int] | None:
    """The marks of a text's tokens once characters were put into it; None when a marked token is no longer one.

    Args:
        old, new: where each token stands, in characters from .. to, before and after.
        put: (where, how many characters), in the order of the text.
    """
    waiting: dict[Region, list[int]] = {}
    for mark, region in zip(marks, old, strict=True):
        waiting.setdefault(_shifted(region, put), []).append(mark)
    found = [waiting[region].pop(0) if waiting.get(region) else nothing for region in new]
    return None if any(mark != nothing for rest in waiting.values() for mark in rest) else found


def _shifted(region: Region, put: Sequence[tuple[int, int]]) -> Region:
    """Where a token stands afterwards: behind all that was put before its end; a blank that it begins with is then the last one put."""
    by = sum(many for where, many in put if where < region[1])
    return region[0] + by, region[1] + by
