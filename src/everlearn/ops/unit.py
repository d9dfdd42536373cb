"""Vectors of norm 1, as the bounds of the fast memories ask."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-6


def unit(x: Tensor) -> Tensor:
    """Scale the last dimension to norm 1, smoothly at zero: never above 1, in float32 or wider.

    Example:
        >>> unit(torch.tensor([3.0, 4.0]))
        tensor([0.6000, 0.8000])
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + EPS)
