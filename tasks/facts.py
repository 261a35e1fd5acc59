"""Facts: what a written text must state, and which training texts do; a model is taught the difference and asked for all of them.

People leave facts out, and a model that learns from them does too. So each training prompt ends with a token that says whether
its text states every fact, and a prompt that is asked ends with the one that says it does.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tasks.mentions import Mentions, Told
from tasks.metrics import states
from tasks.process import Process
from tasks.prompts import leaves_of, regions_of
from tasks.records import as_text, lookup
from tasks.spans import Region, occurrences, trimmed

WHOLE, PARTIAL = "<|all facts|>", "<|some facts|>"
PARTIAL_SHARE = 0.02  # of the training texts that leave something out, from which on it is worth telling them apart


def facts_of(process: Process, inputs: Mapping[str, Any]) -> Iterator[str]:
    """What a text must state: the declared facts, or every input value but yes and no."""
    declared = process.output.facts
    for path in declared if declared is not None else process.input_columns:
        yield from (as_text(value) for value in _scalars(lookup(inputs, path)) if declared is not None or not isinstance(value, bool))


def _scalars(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _scalars(inner)
    elif value is not None and value != "":
        yield value


def states_all(process: Process, inputs: Mapping[str, Any], text: str) -> bool:
    """Whether a text states every fact."""
    return all(states(text, fact) for fact in facts_of(process, inputs))


def whole(process: Process, samples: Sequence[Told], mentions: Mentions | None) -> list[bool]:
    """Whether each text states every fact, and leaves out no value that texts mostly mention."""
    left_out = mentions.left_out(samples) if mentions else [[]] * len(samples)
    told = zip(samples, left_out, strict=True)
    return [not missing and states_all(process, sample.inputs, sample.output) for sample, missing in told]


def tells_apart(told: Sequence[bool]) -> bool:
    """Whether whole and partial training texts are worth telling apart: some are the one and enough the other."""
    return PARTIAL_SHARE * len(told) <= told.count(False) < len(told)


def copied_marks(process: Process, inputs: Mapping[str, Any], parts: Sequence[tuple[str, Sequence[Region]]]) -> list[int]:
    """What of a sample is one value in prompt and text: for each token 0, or the value's even number where it begins, odd where it goes on.

    Values of one column have one number in all samples. A value that the text also has in other letters is left out: it
    could not be exchanged everywhere.

    Args:
        parts: prompt and text, each with the characters of its tokens.
    """
    text = parts[1][0]
    regions = [regions_of(process, inputs), [(0, len(text))]]
    marks = [[0] * len(offsets) for _, offsets in parts]
    tokens = [trimmed(whole, offsets) for whole, offsets in parts]
    for path, value in leaves_of(process, inputs):
        found = [list(occurrences(whole, value, where)) for (whole, _), where in zip(parts, regions, strict=True)]
        if len(found[0]) != 1 or not found[1] or text.casefold().count(value.casefold()) != len(found[1]):
            continue
        covered = [[_tokens_of(there, region) for region in places] for there, places in zip(tokens, found, strict=True)]
        if any(span is None or any(marks[side][span[0] : span[1]]) for side in (0, 1) for span in covered[side]):
            continue
        number = 2 + 2 * (zlib.crc32(path.encode()) % 2**29)
        for side, spans in enumerate(covered):
            for first, end in filter(None, spans):
                marks[side][first:end] = [number, *[number + 1] * (end - first - 1)]
    return [*marks[0], *marks[1]]


def _tokens_of(tokens: Sequence[Region], region: Region) -> tuple[int, int] | None:
    """First token of a region and the one behind its last; None when it does not begin and end with tokens."""
    inside = [index for index, (start, end) in enumerate(tokens) if start < end and region[0] < end and start < region[1]]
    if not inside or tokens[inside[0]][0] != region[0] or tokens[inside[-1]][1] != region[1]:
        return None
    return inside[0], inside[-1] + 1
