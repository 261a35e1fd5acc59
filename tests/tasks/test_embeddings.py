"""Embeddings that begin with what stands near what."""

from pathlib import Path

import numpy as np
import pytest

from infra.store import LocalStore
from tasks.checkpoints import Checkpoints
from tasks.embeddings import SPREAD, neighbourly
from tests.tasks.test_batching import rows_on_disk
from tests.tasks.test_finetuning import calm, process, samples
from tests.tasks.test_finetuning import train_model as train

__all__ = ["samples"]  # a fixture of another file


def cosine(vectors: np.ndarray, one: int, other: int) -> float:
    return float(vectors[one] @ vectors[other] / np.linalg.norm(vectors[one]) / np.linalg.norm(vectors[other]))


def test_tokens_with_the_same_neighbours_are_alike_and_others_are_not(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    rows = [[chance.integers(2), 10 + chance.integers(4), chance.integers(2) + 2, 30] for _ in range(200)]  # 0, 1 are followed by 10 to 13
    rows += [[4 + chance.integers(2), 20 + chance.integers(4), 6 + chance.integers(2), 30] for _ in range(200)]
    found = rows_on_disk(tmp_path, [[int(token) for token in row] for row in rows], [3] * len(rows))
    ids, vectors = neighbourly(found, 40, 8, seed=1)
    assert 30 not in ids and vectors.shape == (len(ids), 8) and vectors.std() == pytest.approx(SPREAD)
    assert cosine(vectors, 0, 1) > 0.9 > 0.1 > abs(cosine(vectors, 0, 4))
    assert (vectors == neighbourly(found, 40, 8, seed=1)[1]).all()


def test_too_few_tokens_are_left_to_chance(tmp_path: Path) -> None:
    ids, vectors = neighbourly(rows_on_disk(tmp_path, [[1, 2, 3, 9]], [3]), 40, 8, seed=1)
    assert (len(ids), vectors.shape) == (0, (0, 8))


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_a_model_that_begins_with_them_is_tuned_and_ends_the_same(samples: Path, tmp_path: Path, positions: str) -> None:
    def tuned(name: str, neighbours: bool) -> float:
        kept = Checkpoints(LocalStore(tmp_path / name / "store"), "tickets/checkpoints/abc")
        declared = process(neighbours=neighbours, positions=positions, size={"n_layer": 1, "n_embd": 8, "n_head": 2})
        return float(train(declared, samples, tmp_path / name, kept, calm)["validation_loss"])

    first, second, plain = tuned("a", True), tuned("b", True), tuned("c", False)
    assert first == second != plain
    a, b = ((tmp_path / name / "model.safetensors").read_bytes() for name in "ab")
    assert a == b
