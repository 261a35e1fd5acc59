"""One model tuned by several processes, or in several parts: the same loss curve as by one in one part."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import allclose

from infra.store import LocalStore, open_store
from tasks.checkpoints import Checkpoints
from tasks.finetuning import train_model
from tasks.parallel import Team, launcher, train_together
from tasks.progress import SHARE_FILE, shown_progress
from tasks.sharding import Sharded
from tests.tasks.test_finetuning import base_folder, calm, process, stop_at, write_samples

EXACT = {"precision": "fp32", "dropout": 0.0, "tokens_per_batch": 32, "prompt_loss_weight": 0.3, "token_dropout": 0.2}


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    return write_samples(tmp_path / "samples")


def history(folder: Path) -> list[dict[str, float]]:
    found: list[dict[str, float]] = json.loads((folder / "training.json").read_text())["history"]
    return found


def alone(folder: Path, samples: Path, **finetuning: Any) -> Path:
    train_model(process(**EXACT | finetuning), samples, folder, Checkpoints(LocalStore(folder / "store"), "c"), calm)
    return folder


def check_same(one: Path, other: Path) -> None:
    """Curves and weights that differ by rounding only."""
    for before, after in zip(history(one), history(other), strict=True):
        assert after == pytest.approx(before, rel=1e-4)
    weights, others = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert all(allclose(weights[name], others[name], atol=1e-3) for name in weights)


@pytest.mark.parametrize("more", [{"gradient_accumulation_steps": 3}, {"gradient_checkpointing": True}])
def test_what_saves_memory_learns_the_same(samples: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    check_same(alone(tmp_path / "one", samples), alone(tmp_path / "other", samples, **more))


def accelerated(count: int) -> list[str]:
    """What `accelerate launch` is told to do the same as torchrun."""
    told = {"num_processes": count, "num_machines": 1, "mixed_precision": "no", "dynamo_backend": "no"}
    accelerate = str(Path(sys.executable).with_name("accelerate"))
    return [accelerate, "launch", "--multi_gpu", *(f"--{name}={value}" for name, value in told.items())]


CUT_UP = {"fsdp": True, "gradient_accumulation_steps": 2}


@pytest.mark.server
@pytest.mark.parametrize(("started", "more"), [(accelerated, {}), (launcher, CUT_UP)], ids=["copies, accelerate", "fsdp, torchrun"])
def test_two_processes_learn_what_one_learns_store_their_checkpoints_once_and_write_one_model(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: Any, more: dict[str, Any]
) -> None:
    monkeypatch.setattr("tasks.parallel.launcher", started)
    one, declared = alone(tmp_path / "one", samples), process(**EXACT | more, num_processes=2)
    facts = train_together(declared, samples, tmp_path / "two", Checkpoints(open_store(), "tickets/checkpoints/two"))
    check_same(one, tmp_path / "two")
    assert facts["steps"] == history(one)[-1]["step"]
    assert list(open_store().list("tickets/checkpoints/two/"))  # the first process stored them for both


class Pretended(Team):
    """One of two processes, without the other."""

    def summed(self, *values: float) -> tuple[float, ...]:
        return values

    def sum_gradients(self, weights: Any) -> None:
        """There is nobody to add anything."""


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_first_process_tells_how_far_they_are(samples: Path, tmp_path: Path, rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SHARE_FILE, str(tmp_path / "share"))
    monkeypatch.setattr("tasks.finetuning.shown_progress", partial(shown_progress, first_seconds=0))
    checkpoints = Checkpoints(LocalStore(tmp_path / "store"), "c")
    train_model(process(**EXACT), samples, tmp_path / "model", checkpoints, team=Pretended(rank, 2))
    assert (tmp_path / "share").exists() == (tmp_path / "model").exists() == (rank == 0)


def test_when_they_fail_it_is_said(samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(RuntimeError, match="one of 2 processes that tuned together failed"):
        train_together(process(num_processes=2), samples, tmp_path / "two", Checkpoints(open_store(), "c"))


@pytest.mark.parametrize(("rows", "size", "steps"), [(7, 2, 1), (7, 2, 3), (1, 2, 1), (4, 3, 2)])
def test_each_row_of_a_batch_is_somebodys_and_only_his(rows: int, size: int, steps: int) -> None:
    parts = [Team(rank, size).parts(rows, steps) for rank in range(size)]
    assert sorted(row for part in parts for rows_of, _ in part for row in range(rows)[rows_of]) == list(range(rows))


@pytest.mark.parametrize(("rows", "size", "steps"), [(7, 2, 3), (1, 2, 1), (4, 3, 2)])
def test_processes_that_share_a_model_pass_it_equally_often_and_each_row_still_counts_once(rows: int, size: int, steps: int) -> None:
    parts = [Sharded(rank, size).parts(rows, steps) for rank in range(size)]
    assert len({len(part) for part in parts}) == 1
    counted = [row for part in parts for rows_of, counts in part for row in range(rows)[rows_of] if counts]
    assert sorted(counted) == list(range(rows))


@pytest.mark.server
def test_a_model_that_is_cut_up_goes_on_from_what_one_process_stored_and_ends_with_the_best_weights(samples: Path, tmp_path: Path) -> None:
    more: dict[str, Any] = {"base": base_folder(tmp_path / "base", "llama"), "lora": {"r": 2}}
    more |= {"learning_rate": 0.1, "num_train_epochs": 12, "ema_decay": 0.9}
    one, declared = alone(tmp_path / "one", samples, **more), process(**EXACT | more, num_processes=2, fsdp=True)
    stored = Checkpoints(open_store(), "tickets/checkpoints/cut")
    with pytest.raises(KeyboardInterrupt):
        train_model(process(**EXACT | more), samples, tmp_path / "stopped", stored, stop_at(5), checkpoint_seconds=0)
    facts = train_together(declared, samples, tmp_path / "two", stored)
    check_same(one, tmp_path / "two")
    assert facts["best_step"] < facts["steps"]
