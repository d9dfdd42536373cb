"""Adam: the optimal element-wise associative memory of gradients."""

from __future__ import annotations

from torch import Tensor

from everlearn.rules.average import decaying_average
from everlearn.rules.shapes import root
from everlearn.rules.types import Slots


def adam(
    weights: Tensor,
    grad: Tensor,
    key: Tensor | None,
    slots: Slots,
    *,
    eta: float | Tensor,
    beta: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
) -> tuple[Tensor, Slots]:
    """Step along the average gradient, divided by its typical size in each element.  [NL eq. 101-105]

        m_t = beta m_{t-1} + (1 - beta) g_t,   v_t = beta2 v_{t-1} + (1 - beta2) g_t^2
        W_t = W_{t-1} - eta m_t / (sqrt(v_t) + eps),   both averages bias-corrected

    Its direction is the element-wise memory x that minimises sum_t (x g_t - p)^2 + lam x^2 over the past gradients,
    which is p m / (v + lam), at p = sqrt(v) and lam = eps sqrt(v). With the sums that the paper prints the steps grow
    without bound; with averages they are those of torch.optim.Adam. Weight decay is the optimizer's business.

    Args:
        weights: what is changed, any shape.
        grad: its gradient, same shape.
        key: unused; every rule takes it.
        slots: {} before the first step, then "m", "v" like the weights and their masses.
        eta: step size in units of the weights, >= 0, broadcast against `weights`.
        beta: share of the old average gradient that is kept, in [0, 1).
        beta2: the same for the average of squares; float32 squares overflow above 1e19.
        eps: added to sqrt(v), in units of the gradient; > 0.
    Returns:
        weights: the changed weights; the argument is left untouched.
        slots: the new averages.
    Example:
        >>> import torch
        >>> weights, slots = adam(torch.zeros(2), torch.tensor([3.0, -0.01]), None, {}, eta=0.5)
        >>> weights
        tensor([-0.5000,  0.5000])
    """
    m, first = decaying_average(slots, "m", grad, beta)
    v, second = decaying_average(slots, "v", grad.square(), beta2, mass="v_mass")
    return weights - eta * (m / (root(v) + eps)), first | second
