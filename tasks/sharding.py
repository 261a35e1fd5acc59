"""Sharding: a model too large for one device -> its weights, gradients and moments cut up among the processes that tune it (FSDP2).

PyTorch's `fully_shard` gathers the weights of one block at a time, so a process holds 1 / size of a model and of what AdamW keeps of it.
Each forward and backward pass is then a matter of all processes: all do equally many, and what is to be done by the clock, the first
decides. Source: https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from tasks.models import Gpt, device, plain
from tasks.parallel import T, Team


class Sharded(Team):
    """Processes of which each holds a part of the model."""

    @property
    def sharded(self) -> bool:
        """Whether each process holds only a part of the weights."""
        return True

    def shares(self, work: Sequence[T]) -> Sequence[tuple[T, float]]:
        """This process's part of what is to be done, filled up with what counts nothing, so that all do equally many pieces."""
        own = list(super().shares(work))
        rounds = -(-len(work) // self.size)
        return own + [(work[0], 0.0)] * (rounds - len(own))

    def agreed(self, what: bool) -> bool:
        """What the first process says."""
        said = torch.tensor(int(what), device=device())
        distributed.broadcast(said, 0)
        return bool(said.item())

    def sum_gradients(self, weights: Sequence[nn.Parameter]) -> None:
        """Nothing: the backward pass has summed them, and given each process those of its part."""

    def place(self, weight: Tensor, whole: Tensor) -> Tensor:
        """This process's part of a weight or moment, from all of it as the first process has it; a count of steps has no parts."""
        if not isinstance(weight, DTensor) or isinstance(whole, DTensor) or not whole.ndim:
            return super().place(weight, whole)
        return distribute_tensor(whole.to(weight.device), weight.device_mesh, weight.placements)

    def whole(self, held: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All of some weights or moments in the first process; the others help, and have nothing of it."""
        found = {}
        for name, part in held.items():
            tensor = part.full_tensor() if isinstance(part, DTensor) else part
            if self.rank == 0:
                found[name] = tensor.cpu()
        return found


def shard(model: Gpt, size: int) -> None:
    """Cut a model up among so many processes, block by block; from now on its weights are DTensors."""
    mesh, gpt = init_device_mesh(device().type, (size,)), plain(model)
    blocks = [module for module in gpt.modules() if type(module).__name__ in (gpt._no_split_modules or ())]
    for module in (*blocks, gpt):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)  # of the whole, too: weights change between two forward passes
    for module in gpt.modules():
        if isinstance(module, FSDPModule):  # a batch's loss is a sum over all processes' rows, not a mean of theirs
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def unsharded(model: Gpt, team: Team, build: Callable[[], Gpt]) -> Gpt:
    """The same model in one piece, in the first process.

    Args:
        build: makes a model of that shape; only the first process asks it.
    """
    weights = team.whole({name: weight.detach() for name, weight in model.named_parameters()})
    if team.rank:
        return model
    made = build()
    with torch.no_grad():
        for name, weight in made.named_parameters():
            weight.copy_(weights[name])
    return made
