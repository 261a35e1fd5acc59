"""Cases: a split of samples/ -> what is asked and what is right, and one prediction for each."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.facts import facts_of
from tasks.metrics import Case
from tasks.predictions import Prediction
from tasks.process import Process
from tasks.records import as_text

if TYPE_CHECKING:
    from datasets import Dataset

    from tasks.generation import Predictor

CHUNK = 2048  # samples asked at a time
PromptOf = Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True, slots=True)
class Test:
    """The test split, or another one, as cases: one a sample, or for text one a prompt."""

    rows: "Dataset"
    cases: list[Case]
    members: list[list[int]]  # the rows of each case; the first one is asked


def cases_of(process: Process, rows: Any) -> Test:
    """The cases of a test split, in the order of their first rows.

    Args:
        rows: test lines of samples/, by number.
    """
    members: dict[Any, list[int]] = {}
    for index, row in enumerate(rows):
        members.setdefault(row["prompt"] if process.output.kind == "text" else index, []).append(index)
    groups = list(members.values())
    return Test(rows, [_case(process, [rows[index] for index in group]) for group in groups], groups)


def _case(process: Process, rows: Sequence[Mapping[str, Any]]) -> Case:
    first = rows[0]
    right = [as_text(text) for row in rows for text in (json.loads(row["output"]), *json.loads(row["references"]))]
    references = tuple(dict.fromkeys(right)) if process.output.kind == "text" else ()
    facts = tuple(facts_of(process, json.loads(first["inputs"]))) if process.output.kind == "text" else ()
    return Case(json.loads(first["output"]), references, facts, json.loads(first["slices"]))


def ask(predictor: "Predictor", test: Test, prompt_of: PromptOf) -> list[Prediction]:
    """One prediction a case."""
    found: list[Prediction] = []
    for chunk in chunks([group[0] for group in test.members]):
        found += predictor.predict([prompt_of(test.rows[index]) for index in chunk])
    return found


def chunks(indices: Sequence[int]) -> Iterator[Sequence[int]]:
    """Some at a time."""
    for start in range(0, len(indices), CHUNK):
        yield indices[start : start + CHUNK]
