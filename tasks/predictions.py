"""Predictions: what the model says to one prompt; apart from the model, so that it can be told without one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says to one prompt.

    `confidence` is the probability of the label among all labels when labels are single tokens; of the whole completion
    for spelled labels and fields; and the geometric mean over the tokens for text. `problem` is a code word when there
    is no output: too_long, unknown_label, unparseable or unfinished.
    """

    output: Any | None
    completion: str
    confidence: float  # 0-1
    problem: str | None
    tokens: int  # of the prompt
    fields: Mapping[str, float] | None = None  # how likely each field is what it says, or rightly absent; where fields are told apart
