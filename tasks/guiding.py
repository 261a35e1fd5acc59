"""Guiding: what a base model's own words for a label or for fields may be; who writes under a guide writes what is declared.

The completion is first written freely. Only one that states nothing is written again, under a guide. What is written freely and is as
declared, the guide would have led to, too: the likeliest token of all is the likeliest of those that are allowed.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

Branch = dict[int, Any]  # token -> what may follow it; the end -> the label


class Leading(Protocol):
    """The writing of one completion under way."""

    def allowed(self) -> Tensor:
        """The tokens that may come next, one or more."""

    def take(self, token: int, log_probability: float = 0.0) -> None:
        """Go on behind a token that was allowed, and how likely it was among those that were (nats)."""


class Labels:
    """The completions of all labels as a tree of tokens, each with its end.

    Args:
        completions: tokens of each label's completion, without the end.
    """

    def __init__(self, labels: Sequence[str], completions: Sequence[Sequence[int]], eos: int) -> None:
        self.root: Branch = {}
        self.most = 1 + max(map(len, completions))
        for label, ids in zip(labels, completions, strict=True):
            branch = self.root
            for token in ids:
                branch = branch.setdefault(token, {})
            branch.setdefault(eos, label)


class LabelGuide:
    """A label under way, token by token."""

    def __init__(self, labels: Labels) -> None:
        self.most = labels.most
        self.at: Any = labels.root  # a branch; the label when it has ended

    def allowed(self) -> Tensor:
        """The tokens that may come next, one or more."""
        return torch.tensor(list(self.at))

    def take(self, token: int, log_probability: float = 0.0) -> None:
        """Go on behind a token that was allowed."""
        self.at = self.at[token]

    def output(self) -> Any:
        """The label that was written."""
        return self.at
