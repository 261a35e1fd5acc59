"""Parallel: one model tuned by several processes, each with its part of every batch; torch.distributed sums what they find.

What a step draws is decided by the step alone, so each process knows the whole batch and takes its rows of it: the loss falls as it does
with one process, but for the order in which numbers are added. They are started by torchrun with this module, or by
`accelerate launch`, which does the same; on GPUs nobody has tried it yet. Each holds the whole model, unless it is cut up among them: see
`tasks.sharding`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from infra.ending import end
from infra.threads import cores
from tasks.artifacts import scratch, write_json
from tasks.models import device
from tasks.progress import SHARE_FILE, shown_progress, told_share

if TYPE_CHECKING:
    from tasks.checkpoints import Checkpoints
    from tasks.process import Process

T = TypeVar("T")
LOOK_SECONDS = 1.0  # between two looks at how far they are
PATIENCE = timedelta(minutes=10)  # of a process that waits for the others; the first one may be storing a checkpoint


@dataclass(frozen=True, slots=True)
class Team:
    """The processes that tune a model together, and which of them this one is."""

    rank: int = 0
    size: int = 1

    def parts(self, rows: int, steps: int) -> Sequence[tuple[slice, float]]:
        """This process's rows of a batch, in so many parts; all rows at once where there is one process and one part."""
        count = self.size * steps
        if count == 1:
            return [(slice(None), 1.0)]
        return self.shares([slice(first, None, count) for first in range(min(rows, count))])

    def shares(self, work: Sequence[T]) -> Sequence[tuple[T, float]]:
        """This process's part of what is to be done, and how much each piece counts."""
        return [(each, 1.0) for each in work[self.rank :: self.size]]

    def agreed(self, what: bool) -> bool:
        """Whether something that depends on the clock is to be done; only the first process's word counts where all must do it."""
        return what

    def place(self, weight: Tensor, whole: Tensor) -> Tensor:
        """What this process holds of a weight, from all of it as the first process has it."""
        return whole.to(weight.device)

    def whole(self, held: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All of some weights or moments, from what each process holds of them."""
        return dict(held)

    @property
    def sharded(self) -> bool:
        """Whether each process holds only a part of the weights."""
        return False

    def summed(self, *values: float) -> tuple[float, ...]:
        """The sums of all processes' values."""
        if self.size == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=device())
        distributed.all_reduce(total)
        return tuple(total.tolist())

    def sum_gradients(self, weights: Sequence[nn.Parameter]) -> None:
        """Give every process the sum of all their gradients; one that had no row adds nothing."""
        if self.size == 1:
            return
        gradients = [weight.grad if weight.grad is not None else torch.zeros_like(weight) for weight in weights]
        total = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(total)
        for weight, part in zip(weights, _cut(total, gradients), strict=True):
            weight.grad = part


def _cut(total: Tensor, like: Sequence[Tensor]) -> Iterator[Tensor]:
    parts = torch.split(total, [each.numel() for each in like])
    return (part.view_as(each) for part, each in zip(parts, like, strict=True))


def train_together(
    process: "Process", samples: Path, folder: Path, checkpoints: "Checkpoints", teacher: Path | None = None
) -> dict[str, Any]:
    """The same as `train_model`, by as many processes as finetuning.num_processes says, on this machine.

    Raises:
        RuntimeError: one of them failed, so all were ended; what it said stands above.
    """
    count = process.finetuning.num_processes
    with scratch() as place:
        hold = checkpoints.hold.model_dump(mode="json") if checkpoints.hold else None
        job: dict[str, Any] = {"process": process.model_dump(mode="json"), "samples": str(samples), "folder": str(folder)}
        job["teacher"] = str(teacher) if teacher else None
        write_json(place / "job.json", job | {"checkpoints": checkpoints.prefix, "hold": hold, "facts": str(place / "facts.json")})
        threads = str(max(1, cores() // count))
        own = {"OMP_NUM_THREADS": threads, "CLERKFLOW_THREADS": threads, SHARE_FILE: str(place / "share")}
        child = subprocess.Popen([*launcher(count), "-m", "tasks.parallel", str(place / "job.json")], env=os.environ | own)
        try:
            status = _waited(child, process.name, place / "share")
        finally:
            end(child)
        if status:
            raise RuntimeError(
                f"{process.name}: one of {count} processes that tuned together failed (status {status}); its words stand above"
            )
        facts: dict[str, Any] = json.loads((place / "facts.json").read_text(encoding="utf-8"))
        return facts


def launcher(count: int) -> list[str]:
    """What starts a module as so many processes that find each other: torchrun."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]


def _waited(child: "subprocess.Popen[bytes]", name: str, share: Path) -> int:
    """The exit status of a process that tells its progress in a file; it is shown in this one's run."""
    with shown_progress(name, "finetuning") as shown:
        while True:
            with suppress(subprocess.TimeoutExpired):
                return child.wait(LOOK_SECONDS)
            if (told := told_share(share)) is not None:
                shown(told)


@contextmanager
def joined(fsdp: bool = False) -> Iterator[Team]:
    """This process as one of those that torchrun started.

    Args:
        fsdp: the model is cut up among them.
    """
    from tasks.sharding import Sharded

    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if gpu else "gloo", timeout=PATIENCE)
    try:
        yield (Sharded if fsdp else Team)(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


def main() -> None:
    """One of the processes: tune with the others; the first one stores checkpoints and writes the model."""
    from infra.store import open_store
    from tasks.checkpoints import Checkpoints
    from tasks.claims import Hold
    from tasks.declaration import parse_process
    from tasks.finetuning import train_model

    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    hold = Hold.model_validate(job["hold"]) if job["hold"] else None
    checkpoints = Checkpoints(open_store(), job["checkpoints"], hold)
    process = parse_process(job["process"], "the declaration of this run")
    with joined(process.finetuning.fsdp) as team:
        teacher = Path(job["teacher"]) if job["teacher"] else None
        facts = train_model(process, Path(job["samples"]), Path(job["folder"]), checkpoints, team=team, teacher=teacher)
        if team.rank == 0:
            write_json(Path(job["facts"]), facts)


if __name__ == "__main__":
    main()
