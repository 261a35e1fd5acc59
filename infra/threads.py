"""Threads: how many this machine gives to torch, how its idle ones wait, and what it keeps for later."""

import os

from infra.settings import settings

# Waiting threads that spin for long take the cores of a shared machine from those that work (measured four times slower); none at all
# makes the short steps of a small model twice as slow on a quiet one. A short spin loses little on either.
# oneDNN keeps a kernel for each shape it has met, up to 1,024 of them, but hardly two batches have one shape: with 64 a training in
# bfloat16 takes 1.9 and 2.2 GB instead of 2.5 and 2.9 (banking77, e2e_nlg), and is 5 to 8 % quicker.
CALM_TORCH = {"GOMP_SPINCOUNT": "10000", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"}


def calm_torch() -> None:
    """Let idle OpenMP threads spin only shortly, and oneDNN keep few kernels; must be called before torch is loaded.

    What the environment says already stays.
    """
    for name, value in CALM_TORCH.items():
        os.environ.setdefault(name, value)


def cores() -> int:
    """Those that this machine gives to models."""
    return settings().threads or os.cpu_count() or 1


def use_threads() -> None:
    """Give torch the declared number of threads; all cores when none is declared."""
    import torch

    if (threads := settings().threads) and threads != torch.get_num_threads():
        torch.set_num_threads(threads)
