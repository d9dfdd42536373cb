"""Matrices as the rules see them: the last two dimensions, one row for a vector, norms that do not overflow."""

from __future__ import annotations

import torch
from torch import Tensor


def as_matrix(tensor: Tensor) -> Tensor:
    """Return [..., out, in] as it is, and a vector [n] as one row, [1, n]."""
    return tensor if tensor.ndim > 1 else tensor.reshape(1, -1)


def wide(tensor: Tensor) -> Tensor:
    """Return half precision as float32, which torch can solve in, and anything longer as it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def one_each(tensor: Tensor) -> Tensor:
    """Return a zero with the number of dimensions of `tensor`, [1, ..., 1]: where a rule starts to count."""
    return torch.zeros_like(tensor[(slice(0, 1),) * tensor.ndim])


def unit(tensor: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Divide by the Euclidean norm over `dim`; zero stays zero.

    Dividing by the largest entry first keeps entries between 1e-30 and 1e30 exact in float32, where their squares
    are not; the norm is free of that factor, so it counts as a constant for gradients.
    """
    largest = tensor.detach().abs().amax(dim, keepdim=True)
    some = largest > 0
    scaled = tensor / torch.where(some, largest, 1.0)
    square = scaled.square().sum(dim, keepdim=True)
    return scaled / torch.where(some, square, 1.0).sqrt()


def root(square: Tensor) -> Tensor:
    """Return the square root, with gradient 0 instead of infinity at 0; what is no number stays none."""
    some = square != 0
    return torch.where(some, torch.where(some, square, 1.0).sqrt(), 0.0)
