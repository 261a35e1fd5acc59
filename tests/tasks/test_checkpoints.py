from pathlib import Path

import pytest
import torch

from infra.store import LocalStore
from tasks.checkpoints import Checkpoint, Checkpoints


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(LocalStore(tmp_path), "tickets/checkpoints/abc")


def at(step: int, best_step: int | None = None) -> Checkpoint:
    weights = {"layer.weight": torch.full((2, 3), float(step))}
    moments = {"layer.weight/step": torch.tensor(float(step)), "layer.weight/exp_avg": torch.ones(2, 3) / 3}
    return Checkpoint(step, weights, moments, {"step": step, "best_step": best_step})


def keys(checkpoints: Checkpoints) -> list[str]:
    return [info.key for info in checkpoints.store.list(checkpoints.prefix + "/")]


def test_there_is_nothing_to_resume_at_first(checkpoints: Checkpoints) -> None:
    assert checkpoints.newest() is None


def test_the_newest_checkpoint_comes_back_bit_by_bit(checkpoints: Checkpoints) -> None:
    checkpoints.save(at(5))
    checkpoints.save(at(12))
    found = checkpoints.newest()
    assert found is not None
    assert found.step == 12
    assert found.state == {"step": 12, "best_step": None}
    assert torch.equal(found.optimizer["layer.weight/exp_avg"], torch.ones(2, 3) / 3)
    assert found.optimizer["layer.weight/step"].shape == ()


def test_only_the_newest_and_the_best_are_kept(checkpoints: Checkpoints) -> None:
    checkpoints.save(at(5, 5))
    checkpoints.save(at(10, 5), keep=(5,))
    checkpoints.save(at(15, 5), keep=(5,))
    assert {key.split("/")[-2] for key in keys(checkpoints)} == {"000000005", "000000015"}


def test_a_torn_checkpoint_does_not_count(checkpoints: Checkpoints) -> None:
    checkpoints.save(at(5))
    checkpoints.save(at(10), keep=(5,))
    checkpoints.store.delete(f"{checkpoints.prefix}/000000010/complete.json")
    found = checkpoints.newest()
    assert found is not None
    assert found.step == 5


def test_a_changed_checkpoint_does_not_count(checkpoints: Checkpoints) -> None:
    checkpoints.save(at(5))
    checkpoints.save(at(10), keep=(5,))
    checkpoints.store.write(f"{checkpoints.prefix}/000000010/weights.safetensors", b"other bytes")
    found = checkpoints.newest()
    assert found is not None
    assert found.step == 5


def test_a_checkpoint_whose_best_weights_are_gone_does_not_count(checkpoints: Checkpoints) -> None:
    checkpoints.save(at(5, 5))
    checkpoints.save(at(10, 5), keep=(5,))
    checkpoints.store.delete(f"{checkpoints.prefix}/000000005/weights.safetensors")
    assert checkpoints.newest() is None


def test_clearing_removes_torn_ones_too(checkpoints: Checkpoints) -> None:
    checkpoints.save(at(5))
    checkpoints.store.write(f"{checkpoints.prefix}/000000007/weights.safetensors", b"half")
    checkpoints.clear()
    assert keys(checkpoints) == []
