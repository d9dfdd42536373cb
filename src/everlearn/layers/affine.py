"""What a linear layer multiplies by and adds, also where an adapter stands around it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def affine(layer: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """Return the matrix and the bias of a linear layer, or of what an adapter library has put in its place.

        W = layer(I)^T - b 1^T,    b = layer(0)

    A memory needs the matrix itself: each row starts from a copy, which then changes. The `weight` of a layer of LoRA
    is the frozen one alone, and who reads it leaves the adapter out without a word; so such a layer is asked for the
    images of the unit vectors. In bfloat16 the sum is rounded, as it is when the adapter is merged.

    Args:
        layer: as it was built, or a module that maps [N, in] to [N, out] in its stead and has in_features and weight.
    Returns:
        weight: [out, in], with the gradient of all that it is made of.
        bias: [out], or None where there is none.
    Example:
        >>> weight, bias = affine(nn.Linear(3, 2, bias=False))
        >>> weight.shape, bias
        (torch.Size([2, 3]), None)
    """
    if isinstance(layer, nn.Linear):
        return layer.weight, layer.bias
    unit = torch.eye(layer.in_features, dtype=layer.weight.dtype, device=layer.weight.device)
    bias = None if layer.bias is None else layer(torch.zeros_like(unit[:1]))[0]
    images = layer(unit)
    return (images if bias is None else images - bias).mT, bias


def affine_in(dtype: torch.dtype, layer: nn.Linear, x: Tensor) -> Tensor:
    """Apply a linear layer, or what stands in its place, to x, [..., in], in another precision than its own."""
    weight, bias = affine(layer)
    return F.linear(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
