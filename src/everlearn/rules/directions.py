"""Where a layer's inputs point: their mean second moment at unit length, exactly or as a sketch."""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.rules.shapes import unit, wide


def directions(keys: Tensor) -> Tensor:
    """Return the keys at unit length, in float32 or wider; a key of zero stays zero."""
    return unit(wide(keys), -1)


def second_moment(keys: Tensor) -> Tensor:
    """Return C, the mean over the keys of x x^T / |x|^2: trace at most 1, eigenvalues in [0, 1].

    Args:
        keys: [..., T, in].
    Returns:
        [..., in, in].
    """
    unit_keys = directions(keys)
    return unit_keys.mT @ unit_keys / max(unit_keys.shape[-2], 1)


def frequent_directions(sketch: Tensor, rows: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Add rows to a sketch B of a second moment and keep `rank` rows.  [ours]

        B'^T B' = V max(s - s_{rank+1}, 0) V^T,   with B^T B + R^T R = V s V^T

    Frequent directions (Ghashami et al. 2016): in no direction more than what was added, B^T B <= sum of R^T R, and
    with `rank` >= in exactly as much. What all the kept directions lose makes room, so that a direction which comes
    often enough enters however large the others have grown.

    Args:
        sketch: B, [..., n, in]; zeros hold nothing.
        rows: R, [..., T, in].
        rank: rows to keep, >= 1; no more than in are of use.
    Returns:
        sketch: orthogonal rows, the longest first, [..., min(rank, in), in].
        lost: s_{rank+1}, by how much each kept direction fell, [..., 1, 1].
    """
    stacked = torch.cat([sketch, rows.to(sketch.dtype).expand(*sketch.shape[:-2], *rows.shape[-2:])], -2)
    held, dim = stacked.shape[-2:]
    if held <= dim:
        # the smaller of the two squares: rows of U^T A are orthogonal, of squared length s
        strength, turn = torch.linalg.eigh(stacked @ stacked.mT)
        axes = turn.mT @ stacked
        axes = unit(axes, -1)
    else:
        strength, turn = torch.linalg.eigh(stacked.mT @ stacked)
        axes = turn.mT
    strength, axes = strength.clamp_min(0).flip(-1), axes.flip(-2)
    kept = min(rank, dim)
    short = max(kept + 1 - strength.shape[-1], 0)
    strength = torch.nn.functional.pad(strength, (0, short))
    axes = torch.nn.functional.pad(axes, (0, 0, 0, short))
    # beyond `in` there is nothing to lose
    lost = strength[..., kept : kept + 1] if kept < dim else torch.zeros_like(strength[..., :1])
    left = (strength[..., :kept] - lost).clamp_min(0)
    return left.sqrt().unsqueeze(-1) * axes[..., :kept, :], lost.unsqueeze(-1)
