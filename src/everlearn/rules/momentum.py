"""Momentum: a gradient step through a memory of past gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.rules.average import decaying_average, mass_after
from everlearn.rules.types import Slots


def momentum(
    weights: Tensor,
    grad: Tensor,
    key: Tensor | None,
    slots: Slots,
    *,
    eta: float | Tensor,
    beta: float = 0.9,
    average: bool = True,
) -> tuple[Tensor, Slots]:
    """Step along a decaying average of the gradients.  [NL eq. 10-13, 33]

        m_t = beta m_{t-1} + (1 - beta) g_t
        W_t = W_{t-1} - eta m_t / (1 - beta^t)

    m is itself an associative memory of gradients, trained by gradient descent. With `average=False` it is the sum
    that the paper prints, m_t = beta m_{t-1} + g_t without correction, as torch.optim.SGD does; its effective step
    is 1 / (1 - beta) times larger. Inside a memory that reads a stream, momentum was measured to hurt: use gd there.

    Args:
        weights: what is changed, any shape.
        grad: its gradient, same shape.
        key: unused; every rule takes it.
        slots: {} before the first step, then {"m": like weights, "mass": sum of the averaging weights, [1, ..., 1]}.
        eta: step size in units of the gradient, >= 0, broadcast against `weights`.
        beta: share of the old momentum that is kept, in [0, 1).
        average: True for the bias-corrected average, False for the printed sum.
    Returns:
        weights: the changed weights; the argument is left untouched.
        slots: the new momentum and mass.
    """
    if average:
        step, slots = decaying_average(slots, "m", grad, beta)
    else:
        step = grad + beta * (slots["m"] if slots else torch.zeros_like(grad))
        slots = {"m": step, "mass": mass_after(slots, grad, beta)}
    return weights - eta * step, slots
