"""Threads: how many this machine gives to torch, and how its idle ones wait."""

import os

from infra.settings import settings

# On a shared machine OpenMP's waiting threads spin and take the cores from those that work: measured four times slower.
CALM_OPENMP = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}


def calm_openmp() -> None:
    """Let idle OpenMP threads sleep; must be called before torch is loaded, what the environment says already stays."""
    for name, value in CALM_OPENMP.items():
        os.environ.setdefault(name, value)


def use_threads() -> None:
    """Give torch the declared number of threads; all cores when none is declared."""
    import torch

    if (threads := settings().threads) and threads != torch.get_num_threads():
        torch.set_num_threads(threads)
