import os

import pytest
import torch

from infra.threads import calm_openmp, use_threads


def test_what_the_environment_says_already_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    calm_openmp()
    assert os.environ["GOMP_SPINCOUNT"] == "7"


def test_waiting_threads_spin_only_shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "")
    monkeypatch.delenv("GOMP_SPINCOUNT")
    calm_openmp()
    assert 0 < int(os.environ["GOMP_SPINCOUNT"]) < 100_000


def test_torch_gets_the_declared_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("CLERKFLOW_THREADS", "1")
    try:
        use_threads()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
