"""A parameter as a rule sees it, and back: a whole matrix, or the numbers that this process holds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, distributed

from everlearn.rules.shapes import as_matrix


class View(ABC):
    """How tensors that live with a parameter (itself, its gradient, its slots) are given to a rule and taken back."""

    @abstractmethod
    def read(self, tensor: Tensor) -> Tensor:
        """Return what the rule is given."""

    @abstractmethod
    def back(self, made: Tensor, weight: Tensor) -> Tensor:
        """Return what the rule made of one as a tensor like the parameter: its shape, its type, shared as it is."""


class Matrices(View):
    """Every parameter is one matrix [out, in]: a vector is one row, a convolution [out, the rest].

    Of a parameter that processes share (FSDP2) the rule sees the whole, in each of them: the products of a matrix need
    all of it. Each keeps its own part of the result.
    """

    def read(self, tensor: Tensor) -> Tensor:
        """Return [out, in], whole."""
        whole = tensor.full_tensor() if shared(tensor) else tensor  # type: ignore[attr-defined]
        return whole.flatten(1) if whole.ndim > 2 else as_matrix(whole)

    def back(self, made: Tensor, weight: Tensor) -> Tensor:
        """Return the part of this process, in the shape of the parameter."""
        whole = made.reshape(weight.shape)
        if not shared(weight):
            return whole
        from torch.distributed.tensor import DTensor, Replicate

        mesh = weight.device_mesh  # type: ignore[attr-defined]
        everywhere = DTensor.from_local(whole, mesh, [Replicate()] * mesh.ndim, run_check=False)
        return everywhere.redistribute(mesh, weight.placements)  # type: ignore[attr-defined]


class Elements(View):
    """Every number is stepped by itself: any shape as it is, complex ones as pairs, and the part of this process."""

    def read(self, tensor: Tensor) -> Tensor:
        """Return the numbers that this process holds; where those are one or none, among zeros."""
        own = _pairs(local(tensor))
        if not shared(tensor) or own.numel() > 1:
            return own
        # what is kept for every number must not look like a counter in one process and like a tensor in another
        among = own.new_zeros([2, *(max(size, 1) for size in own.shape[1:])])
        among[tuple(slice(size) for size in own.shape)] = own
        return among

    def back(self, made: Tensor, weight: Tensor) -> Tensor:
        """Return the part of this process as the parameter has it."""
        own = local(weight)
        made = made[tuple(slice(size) for size in _pairs(own).shape)]
        made = torch.view_as_complex(made.contiguous()) if own.is_complex() else made
        if not shared(weight):
            return made
        from torch.distributed.tensor import DTensor

        mesh, placements = weight.device_mesh, weight.placements  # type: ignore[attr-defined]
        return DTensor.from_local(made, mesh, placements, run_check=False, shape=weight.shape, stride=weight.stride())


def _pairs(tensor: Tensor) -> Tensor:
    """Return complex numbers as pairs, [..., 2], and real ones as they are."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def shared(tensor: Tensor) -> bool:
    """Tell whether a tensor is shared between processes."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds, which is all of it where nothing is shared."""
    return tensor.to_local() if shared(tensor) else tensor  # type: ignore[attr-defined]


def finite(tensors: Sequence[Tensor]) -> list[bool]:
    """Tell of each tensor whether all of its numbers are finite, in every process that shares it."""
    if not tensors:
        return []
    parts = [local(tensor) for tensor in tensors]
    # the largest entry, because squares overflow; NaN passes through the maximum
    flags = [
        torch.linalg.vector_norm(part, torch.inf).isfinite() if part.numel() else part.new_ones((), dtype=torch.bool)
        for part in parts
    ]
    together = torch.stack([flag.to(flags[0].device) for flag in flags])
    for mesh in {tensor.device_mesh for tensor in tensors if shared(tensor)}:  # type: ignore[attr-defined]
        counts = together.int()
        for group in mesh.get_all_groups():
            distributed.all_reduce(counts, distributed.ReduceOp.MIN, group)
        together = counts.bool()
    return together.tolist()
