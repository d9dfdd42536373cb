"""Orthogonal weight modification for wide layers: the memory of the inputs is a sketch of few directions.  [ours]"""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.rules.average import decaying_average
from everlearn.rules.directions import directions, frequent_directions
from everlearn.rules.keys import key_block
from everlearn.rules.shapes import as_matrix, one_each, unit
from everlearn.rules.types import Slots


def owm_low_rank(
    weights: Tensor,
    grad: Tensor,
    key: Tensor | None,
    slots: Slots,
    *,
    eta: float | Tensor,
    beta: float = 0.9,
    kappa: float = 1.0,
    rank: int = 64,
) -> tuple[Tensor, Slots]:
    """Step along the momentum where the most frequent directions of earlier inputs do not look.  [ours; NL eq. 47]

        S ~ B^T B by frequent directions,   P = (I + kappa B^T B)^-1
        m_t = beta m_{t-1} + (1 - beta) g_t,   W_t = W_{t-1} - eta (m_t / (1 - beta^t)) P

    With `rank` >= in it is `owm` refreshed in every step; below, B^T B <= S, so it protects less and never more. The
    rows of B are orthogonal, so P needs no inverse and is fresh in every step. Once the sketch has lost something, a
    step is shortened to eta tr(C P) <= 1, since what is not remembered is not damped either. Nothing differentiates
    through the sketch: the keys get no outer gradient.

    Args:
        weights: what is changed, [..., out, in]; a vector [n] is one row.
        grad: its gradient, same shape.
        key: the layer's inputs, [..., T, in], or one, [..., in].
        slots: {} before the first step, then "m" like the weights, "mass", "sketch" (B), [..., rank, in], float32 for
            weights in half precision, and "lost", what each of its directions has given up, [..., 1, 1].
        eta: step size in units of the gradient, >= 0, a number or [..., 1, 1]; as for `owm`.
        beta: share of the old momentum that is kept, in [0, 1).
        kappa: how strongly an input is protected, >= 0; 0 is `momentum`.
        rank: directions that are remembered, >= 1.
    Returns:
        weights: the changed weights; the argument is left untouched.
        slots: the new ones.
    Raises:
        ValueError: no key, or keys that do not fit the weights.
    """
    unit_keys = directions(key_block("owm_low_rank", key, weights).detach())
    rows = unit_keys / max(unit_keys.shape[-2], 1) ** 0.5
    return owm_by_sketch(weights, grad, rows, slots, eta=eta, beta=beta, kappa=kappa, rank=rank)


def owm_by_sketch(
    weights: Tensor,
    grad: Tensor,
    rows: Tensor,
    slots: Slots,
    *,
    eta: float | Tensor,
    beta: float,
    kappa: float,
    rank: int,
) -> tuple[Tensor, Slots]:
    """Take the step of `owm_low_rank`, given R with R^T R = C instead of the keys that C is the moment of.

    Args:
        rows: R, [..., n, in].
    """
    held = slots["sketch"] if slots else torch.zeros_like(rows[..., :1, :])
    sketch, lost = frequent_directions(held, rows, rank)
    lost = lost + (slots["lost"] if slots else one_each(lost))
    m, kept = decaying_average(slots, "m", as_matrix(grad), beta)
    axes, strength = unit(sketch, -1), kappa * sketch.square().sum(-1)
    share = (strength / (1 + strength)).unsqueeze(-2)
    wide_m = m.to(sketch.dtype)
    step = wide_m - ((wide_m @ axes.mT) * share) @ axes
    # tr(C P) of the newest inputs
    reach = rows.square().sum((-2, -1), keepdim=True) - (share * (rows @ axes.mT).square()).sum((-2, -1), keepdim=True)
    too_far = (lost > 0) & (eta * reach > 1)
    bound = torch.where(too_far, 1 / torch.where(too_far, eta * reach, 1.0), 1.0)
    moved = weights - (eta * bound * step).reshape(weights.shape)
    return moved.to(weights.dtype), kept | {"sketch": sketch, "lost": lost}
