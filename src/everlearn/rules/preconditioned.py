"""Preconditioned momentum: gradients are rescaled before they are remembered."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from everlearn.rules.average import decaying_average
from everlearn.rules.shapes import root
from everlearn.rules.types import Slots


def preconditioned(
    weights: Tensor,
    grad: Tensor,
    key: Tensor | None,
    slots: Slots,
    *,
    eta: float | Tensor,
    beta: float = 0.9,
    beta2: float = 0.99,
    eps: float = 1e-8,
    precondition: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Slots]:
    """Step along an average of preconditioned gradients.  [NL eq. 46-47]

        u_t = P_t g_t,   P_t = diag 1 / (sqrt(v_t) + eps)
        m_t = beta m_{t-1} + (1 - beta) u_t
        W_t = W_{t-1} - eta m_t

    The memory maps a gradient to P g instead of to itself. P stands inside m: each gradient is divided by the scale
    that was known when it came, where `adam` divides all of them by the newest one. m and v are bias-corrected.

    Args:
        weights: what is changed, any shape.
        grad: its gradient, same shape.
        key: unused; every rule takes it.
        slots: {} before the first step, then "m", "v" like the weights and their masses.
        eta: step size in units of the weights, >= 0, broadcast against `weights`.
        beta: share of the old momentum that is kept, in [0, 1).
        beta2: the same for the average v of squared gradients; float32 squares overflow above 1e19.
        eps: added to sqrt(v), in units of the gradient.
        precondition: another u = P g, a function of the gradient alone; v is then not kept.
    Returns:
        weights: the changed weights; the argument is left untouched.
        slots: the new averages.
    """
    kept: Slots = {}
    if precondition is None:
        v, kept = decaying_average(slots, "v", grad.square(), beta2, mass="v_mass")
        scaled = grad / (root(v) + eps)
    else:
        scaled = precondition(grad)
    m, momentum = decaying_average(slots, "m", scaled, beta)
    return weights - eta * m, kept | momentum
