"""The omega rule: the delta rule over the last few tokens instead of the last one."""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.rules.keys import error_of, one_key
from everlearn.rules.shapes import as_matrix
from everlearn.rules.types import Slots


def omega(
    weights: Tensor,
    grad: Tensor,
    key: Tensor | None,
    slots: Slots,
    *,
    eta: float | Tensor,
    window: int = 8,
) -> tuple[Tensor, Slots]:
    """Step along the gradient of the last c tokens at the present weights.  [NL eq. 67-68]

        M_t = M_{t-1} - eta sum_{i=t-c+1}^t (M_{t-1} k_i - v_i) k_i^T

    For a linear memory with the L2 objective |M k - v|^2 / 2: the newest value is found from its gradient, v = M k - e
    with e k^T = grad, and the window keeps keys and values. With c = 1 it is `gd` bit for bit, which is the delta
    rule; its limit over all of the past is `least_squares`. The whole window takes the newest eta. Stable while
    eta times the largest eigenvalue of sum k_i k_i^T stays below 2: with unit keys, eta < 2 / c is always safe.

    Args:
        weights: M, [..., out, in]; a vector [n] is one row.
        grad: (M k - v) k^T of the newest token at `weights`, same shape.
        key: k, one for each matrix, [..., in] or [..., 1, in]; a zero key is an empty place in the window.
        slots: {} before the first step, then {"keys": [..., c, in], "values": [..., c, out]}, oldest first.
        eta: step size, >= 0, a number or [..., 1, 1].
        window: c [tokens], >= 1.
    Returns:
        weights: the changed memory; the argument is left untouched.
        slots: the new window.
    Raises:
        ValueError: no key, more than one in a step, keys that do not fit the weights, or another window than before.
    """
    k = one_key("omega", key, weights)
    M, g = as_matrix(weights), as_matrix(grad)
    if slots and slots["keys"].shape[-2] != window:
        raise ValueError(
            f"omega got window {window} and slots with a window of {slots['keys'].shape[-2]}; a window keeps its "
            "length, so go on with the old one or start with empty slots"
        )
    v = k @ M.mT - error_of(g, k)
    keys = slots["keys"] if slots else k.new_zeros(*k.shape[:-2], window, k.shape[-1])
    values = slots["values"] if slots else v.new_zeros(*v.shape[:-2], window, v.shape[-1])
    past, wanted = keys[..., 1:, :], values[..., 1:, :]
    older = (past @ M.mT - wanted).mT @ past
    kept = {"keys": torch.cat([past, k], -2), "values": torch.cat([wanted, v], -2)}
    return (M - eta * (g + older)).reshape(weights.shape), kept
