"""Spaces: the part of a declaration that says how settings of the training are searched for, and among which."""

from collections.abc import Mapping
from typing import Any, Self

import yaml
from pydantic import Field, field_validator, model_validator

from tasks.terms import Declared

OPEN = (
    "size",
    "learning_rate",
    "num_train_epochs",
    "tokens_per_batch",
    "warmup_ratio",
    "weight_decay",
    "max_grad_norm",
    "label_smoothing_factor",
    "prompt_loss_weight",
    "token_dropout",
    "value_swaps",
    "invented_values",
    "dropout",
)  # settings that change no sample, so that the losses of all trials can be compared


class Range(Declared):
    """Every number between two."""

    low: float
    high: float
    log: bool = False  # as likely between 0.001 and 0.01 as between 0.01 and 0.1

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}, and above 0 with log")
        return self


class Choices(Declared):
    """One of some values."""

    choices: tuple[Any, ...] = Field(min_length=2)


Space = dict[str, Range | Choices]


class Search(Declared):
    """How long is searched, and where; `clerkflow tune` does it."""

    minutes: float = Field(30, gt=0, le=10_000)  # of one call; the next one goes on with the same study
    trials: int = Field(60, ge=1, le=10_000)  # of the whole study
    workers: int = Field(1, ge=1, le=64)  # processes that search at once and share the cores
    space: Space | None = None  # setting -> its range or choices; around what is settled when absent

    @field_validator("space")
    @classmethod
    def _can_be_searched(cls, space: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        unknown = sorted(set(space or ()) - set(OPEN))
        if unknown or space == {}:
            raise ValueError(f"{', '.join(unknown) or 'nothing'} cannot be searched for; there are: {', '.join(OPEN)}")
        return space


def lines_of(best: Mapping[str, Any]) -> str:
    """What to put into process.yaml: the settings of a trial."""
    return yaml.safe_dump({"finetuning": best["settings"]}, sort_keys=False)
