"""One process or several: who this one is, and how they add up numbers and share the weights."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Processes:
    """The processes that train one model, each on its share of every batch.

    Args:
        rank: number of this one, from 0; the first alone writes and speaks.
        count: how many there are.
        device: where this one computes.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = CPU

    @property
    def first(self) -> bool:
        """Tell whether this process is the one that writes."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """Return which of the rows of a backward pass this process reads.

        Raises:
            ValueError: they cannot be shared equally.
        """
        if rows % self.count:
            raise ValueError(
                f"{rows} windows of a backward pass cannot be shared equally by {self.count} processes; choose a "
                f"batch_size whose windows per pass are a multiple of {self.count}"
            )
        own = rows // self.count
        return slice(self.rank * own, (self.rank + 1) * own)

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.count > 1:
            distributed.all_reduce(value)
        return value

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.count > 1:
            distributed.barrier()

    def shard(self, model: nn.Module, blocks: nn.ModuleList) -> None:
        """Share the parameters between the processes (FSDP2), block by block; one process keeps them as they are."""
        if self.count == 1:
            return
        # heavy, and of use to several processes alone
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        # what a block returns may be a view, and nothing of ours changes what it was given
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
        mesh = init_device_mesh(self.device.type, (self.count,))
        for block in blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)


@contextmanager
def processes(device: torch.device) -> Iterator[Processes]:
    """Join the processes that torchrun started, as its environment says; without it there is one.

    Args:
        device: what the user asked for; with CUDA each process takes the GPU of its own number.
    Yields:
        who this process is.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(device=device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(distributed.get_rank(), count, device)
    finally:
        distributed.destroy_process_group()


def shared(tensor: Tensor) -> bool:
    """Tell whether a tensor is shared between processes."""
    if not distributed.is_initialized():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor that may be shared between processes, on the CPU; every process has to ask."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if shared(tensor) else tensor).cpu()  # type: ignore[attr-defined]


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """Return a tensor where another of the same shape lives: on its device, and shared as that one is."""
    placed = tensor.to(other.device)
    if not shared(other) or tensor.shape != other.shape:
        return placed
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(placed, other.device_mesh, other.placements)  # type: ignore[attr-defined]
