"""The average of weights: reaches back over a part of the steps, and lends itself to the model."""

import pytest
import torch
from torch import nn

from tasks.averaging import Average


def stepped(steps: int, decay: float) -> tuple[Average, nn.Parameter]:
    """A weight that is the number of its step, after so many steps."""
    weight = nn.Parameter(torch.zeros(1))
    average = Average([("w", weight)], decay)
    for step in range(1, steps + 1):
        with torch.no_grad():
            weight.fill_(step)
        average.take(step)
    return average, weight


def test_early_on_the_average_reaches_back_over_a_part_of_the_steps_and_later_as_far_as_the_decay() -> None:
    assert 85 < float(stepped(100, 0.9999)[0].weights["w"]) < 95
    assert 850 < float(stepped(1000, 0.9999)[0].weights["w"]) < 950
    assert float(stepped(1000, 0.9)[0].weights["w"]) == pytest.approx(1000 - 9, abs=0.01)


def test_a_model_has_its_own_weights_again_also_after_an_error() -> None:
    average, weight = stepped(10, 0.9)
    kept = float(average.weights["w"])
    with pytest.raises(RuntimeError), average.shown():
        assert weight.item() == kept
        assert float(average.weights["w"]) == 10
        raise RuntimeError
    assert (weight.item(), float(average.weights["w"])) == (10, kept)


def test_an_average_goes_on_where_it_was_stored() -> None:
    average, _ = stepped(10, 0.9)
    other = Average([("w", nn.Parameter(torch.zeros(1)))], 0.9)
    other.restore(average.weights)
    assert torch.equal(other.weights["w"], average.weights["w"])
    average.weights["w"].zero_()
    assert float(other.weights["w"]) > 0
