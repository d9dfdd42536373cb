"""A bound on how much one row may move in one step."""

from __future__ import annotations

import torch
from torch import Tensor


def clip_rows(grad: Tensor, max_norm: float = 1.0) -> tuple[Tensor, Tensor]:
    """Shrink each row of a gradient to at most `max_norm`.  [NL eq. 71]

    Args:
        grad: [B, ...], one row per stream.
        max_norm: Frobenius norm that a row may have, > 0; math.inf only measures.
    Returns:
        grad: rows above the bound scaled down to it, the others bit-identical.
        norm: Frobenius norm of each row before the clip, [B]: the surprise that drives the write.
    """
    norm = grad.flatten(1).norm(dim=1)
    return grad * clip_scale(norm, max_norm).reshape(-1, *[1] * (grad.ndim - 1)), norm


def clip_scale(norm: Tensor, max_norm: float) -> Tensor:
    """Return what a gradient of a norm, of any shape, is multiplied with so that its norm is at most `max_norm`."""
    # never divided by a norm below the bound: the derivative there need not be finite, and zero times it neither
    return torch.where(norm > max_norm, max_norm / norm.clamp_min(max(max_norm, 1e-30)), torch.ones_like(norm))
