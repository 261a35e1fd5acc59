"""Averaging: the weights of many steps -> one model, steadier than the last step's (Polyak and Juditsky, 1992)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

SOON = 9.0  # the average reaches back over a ninth of the steps so far, until the decay bounds it: what is random soon goes


class Average:
    """An exponential moving average of weights that are being trained.

    Args:
        weights: names and weights.
        decay: of what the average was before, at most; 0-1.
    """

    def __init__(self, weights: Sequence[tuple[str, nn.Parameter]], decay: float) -> None:
        self.trained, self.decay = list(weights), decay
        self.weights = {name: weight.detach().clone() for name, weight in self.trained}

    @torch.no_grad()
    def take(self, step: int) -> None:
        """Add the weights as they are after a step, counted from 1."""
        share = max(1 - self.decay, SOON / (step + SOON))
        for name, weight in self.trained:
            self.weights[name].lerp_(weight, share)

    @torch.no_grad()
    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from an average that was stored."""
        for name, average in self.weights.items():
            average.copy_(weights[name])

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The model has the average's weights; its own ones afterwards."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, weight in self.trained:
            own = weight.detach().clone()
            weight.copy_(self.weights[name])
            self.weights[name].copy_(own)
