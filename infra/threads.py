"""Threads: how many this machine gives to torch, and how its idle ones wait."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TypeVar

from infra.settings import settings

POOLS: list[int] = []  # at work: how many threads their user has; torch gives new threads as many as anyone was given last
Part = TypeVar("Part")
Found = TypeVar("Found")

# Waiting threads that spin for long take the cores of a shared machine from those that work (measured four times slower); none at all
# makes the short steps of a small model twice as slow on a quiet one. A short spin loses little on either.
# Left alone: ONEDNN_PRIMITIVE_CACHE_CAPACITY=64 would spare a training in bfloat16 0.6 of 2.5 GB (oneDNN keeps a kernel for each shape of a
# batch, up to 1,024) and 5 % of its time, but transformers' generate, one by one, went from 8.6 to 5.6 rows a second with it.
CALM_OPENMP = {"GOMP_SPINCOUNT": "10000"}
CGROUPS = Path("/sys/fs/cgroup")


def calm_openmp() -> None:
    """Let idle OpenMP threads spin only shortly; must be called before torch is loaded, what the environment says already stays."""
    for name, value in CALM_OPENMP.items():
        os.environ.setdefault(name, value)


def cores() -> int:
    """Those that this machine gives to models: as declared, else all that this process may use, at least 1."""
    return settings().threads or usable_cores()


def usable_cores() -> int:
    """Cores that the system lets this process run on; no more whole ones than the quota of its container.

    A quota is rounded down: a thread that has to wait for its next share holds up all the others at the end of each product.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS has none
    membership = Path("/proc/self/cgroup")
    quota = quota_of(membership.read_text(encoding="utf-8"), CGROUPS) if membership.is_file() else None
    return max(1, min(allowed, int(allowed if quota is None else quota)))


def quota_of(membership: str, root: Path) -> float | None:
    """Cores that control groups give to a process, the least of its own group's and of those above it; None without a limit.

    Args:
        membership: what /proc/self/cgroup says.
        root: where control groups are mounted: version 2 as one tree, version 1 as one for each controller.
    """
    return min(_quotas(membership, root), default=None)


def _quotas(membership: str, root: Path) -> Iterator[float]:
    for line in membership.splitlines():
        _, controllers, group = line.split(":", 2)
        trees = [root, root / "unified"] if not controllers else [root / controllers] if "cpu" in controllers.split(",") else []
        inside = PurePosixPath(group.lstrip("/"))
        for folder in (tree / place for tree in trees for place in (inside, *inside.parents)):
            if (quota := _quota(folder)) is not None:
                yield quota


def _quota(folder: Path) -> float | None:
    """The quota of one group; None where it has none, or no such group is to be seen from inside of a container."""
    try:
        if (limit := folder / "cpu.max").is_file():
            quota, period = limit.read_text(encoding="ascii").split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii").strip() for name in ("quota", "period"))
    except OSError:
        return None
    return None if quota in ("max", "-1") else int(quota) / int(period)


def use_threads() -> None:
    """Give torch the declared number of threads; when none is declared, no more than this process may use."""
    import torch

    present = torch.get_num_threads()
    wanted = max([present, *POOLS])
    if (threads := settings().threads or min(wanted, usable_cores())) != present:
        torch.set_num_threads(threads)


def side_by_side(work: Callable[[Part], Found], parts: Sequence[Part]) -> list[Found]:
    """What each part comes to, in their order; torch's threads take a part each, for those that share one wait for each other."""
    import torch

    threads = torch.get_num_threads()
    if (count := min(threads, len(parts))) < 2:
        return [work(part) for part in parts]
    POOLS.append(threads)
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(threads // count,)) as pool:
            return list(pool.map(work, parts))
    finally:
        torch.set_num_threads(threads)
        POOLS.remove(threads)
