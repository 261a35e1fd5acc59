"""Threads: how many this machine gives to torch, and how its idle ones wait."""

import os

from infra.settings import settings

# Waiting threads that spin for long take the cores of a shared machine from those that work (measured four times slower); none at all
# makes the short steps of a small model twice as slow on a quiet one. A short spin loses little on either.
# Left alone: ONEDNN_PRIMITIVE_CACHE_CAPACITY=64 would spare a training in bfloat16 0.6 of 2.5 GB (oneDNN keeps a kernel for each shape of a
# batch, up to 1,024) and 5 % of its time, but transformers' generate, one by one, went from 8.6 to 5.6 rows a second with it.
CALM_OPENMP = {"GOMP_SPINCOUNT": "10000"}


def calm_openmp() -> None:
    """Let idle OpenMP threads spin only shortly; must be called before torch is loaded, what the environment says already stays."""
    for name, value in CALM_OPENMP.items():
        os.environ.setdefault(name, value)


def cores() -> int:
    """Those that this machine gives to models."""
    return settings().threads or os.cpu_count() or 1


def use_threads() -> None:
    """Give torch the declared number of threads; all cores when none is declared."""
    import torch

    if (threads := settings().threads) and threads != torch.get_num_threads():
        torch.set_num_threads(threads)
