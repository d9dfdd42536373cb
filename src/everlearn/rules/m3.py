"""M3: a fast and a slow momentum, both orthogonalised, scaled by the second moment of the update."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from everlearn.rules.average import decaying_average
from everlearn.rules.newton_schulz import common_size, lookahead, orthogonalize
from everlearn.rules.shapes import as_matrix, one_each, root
from everlearn.rules.types import Slots


def m3(
    weights: Tensor,
    grad: Tensor,
    key: Tensor | None,
    slots: Slots,
    *,
    eta: float | Tensor,
    alpha: float | Tensor = 0.3,
    beta: float = 0.95,
    beta_slow: float = 0.9,
    beta2: float = 0.95,
    slow_period: int = 10,
    ns_steps: int = 5,
    second_moment: bool = True,
    eps: float = 1e-8,
    ns_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Slots]:
    """Step along two momenta of different speed, a continuum memory of gradients.  [NL alg. 1, eq. 75]

        m_t = beta m_{t-1} + (1 - beta) g_t,   O_t = NS((1 - beta) g_t + beta m_t) + alpha NS(s)
        every f steps:  s <- beta_slow s + (1 - beta_slow) (mean of the last f gradients)
        v_t = beta2 v_{t-1} + (1 - beta2) O_t^2,   Z_t = O_t / (sqrt(v_t) + eps)
        W_t = W_{t-1} - eta 0.2 sqrt(out in) Z_t / |Z_t|

    The averages stand where the paper prints sums, with which the step shrinks 280 times within 1,000 steps, and the
    second moment is that of the update, not of the gradient, so that the scale of the loss has no effect. With alpha
    0 and no second moment this is `newton_schulz` bit for bit. Measured in runs of up to 490 steps it ties with it,
    and the slow memory did not pay: alpha 0 was at least as good as .3. The refresh is decided from the slots, so
    this rule does not run under torch.func.vmap; give it batches of matrices instead.

    Args:
        weights: what is changed, [..., out, in]; a vector [n] is one row.
        grad: its gradient, same shape.
        key: unused; every rule takes it.
        slots: {} before the first step, then "m", "slow" (s, with the gradients since the last refresh in it),
            "slow_step" (NS(s) at the last refresh), "v", all [..., out, in], and "phase" (how many gradients have come
            since) and "v_mass". Where alpha is the number 0 nothing slow is kept.
        eta: step size, >= 0: root mean square of the change is 0.2 eta in every matrix.
        alpha: share of the slow memory, >= 0; the number 0 drops the memory, which begins anew when alpha rises.
        beta: share of the fast momentum that is kept per step, in [0, 1).
        beta_slow: share of the slow one that is kept per refresh, in [0, 1).
        beta2: share of the old second moment that is kept, in [0, 1).
        slow_period: f, steps between two refreshes of the slow memory, >= 1; the first steps do without it.
        ns_steps: Newton-Schulz steps, >= 1.
        second_moment: False steps along O itself, scaled as in `newton_schulz`.
        eps: added to sqrt(v), in units of O.
        ns_dtype: type of the Newton-Schulz steps, such as torch.bfloat16; None as `orthogonalize` says.
    Returns:
        weights: the changed weights; the argument is left untouched.
        slots: the new ones.
    """
    g = as_matrix(grad)
    u, m = lookahead(slots, g, beta)

    def orthogonal(matrix: Tensor) -> Tensor:
        return orthogonalize(matrix, ns_steps, dtype=ns_dtype)

    slow = _slow_memory(slots, g, alpha, beta_slow, slow_period, orthogonal)
    kept = {"m": m} | slow
    step = orthogonal(u)
    # the slow memory acts from the step after its refresh on
    step = step + alpha * slots["slow_step"] if slow and "slow_step" in slots else step
    size: float | Tensor = 1.0
    if second_moment:
        v, averaged = decaying_average(slots, "v", step.square(), beta2, mass="v_mass")
        step = step / (root(v) + eps)
        size = _to_length(step, 0.2 * math.sqrt(g.shape[-2] * g.shape[-1]))
        kept |= averaged
    else:
        step = common_size(g) * step
    return weights - ((eta * size) * step).reshape(weights.shape), kept


def _to_length(matrix: Tensor, wanted: float) -> Tensor:
    """Return the factor that brings each matrix to a Frobenius norm; 0 where it is zero."""
    norm = torch.linalg.vector_norm(matrix, dim=(-2, -1), keepdim=True)
    return torch.where(norm > 0, wanted / torch.where(norm > 0, norm, 1.0), 0.0)


def _slow_memory(
    slots: Slots,
    grad: Tensor,
    alpha: float | Tensor,
    beta: float,
    period: int,
    orthogonal: Callable[[Tensor], Tensor],
) -> Slots:
    """Add the gradient to the slow momentum, and orthogonalise it in those matrices whose period is over."""
    if not isinstance(alpha, Tensor) and alpha == 0:
        return {}
    if "slow" in slots:
        slow, slow_step, phase = slots["slow"], slots["slow_step"], slots["phase"]
    else:
        slow, slow_step, phase = torch.zeros_like(grad), torch.zeros_like(grad), one_each(grad)
    # nobody reads it before the period is over, so its mean needs no sum of its own
    share = torch.where(phase == 0, torch.full_like(phase, beta), torch.ones_like(phase))
    slow = torch.addcmul(((1 - beta) / period) * grad, share, slow)
    due = phase + 1 >= period
    if bool(due.any()):
        slow_step = torch.where(due, orthogonal(slow), slow_step)
    return {"slow": slow, "slow_step": slow_step, "phase": torch.where(due, 0.0, phase + 1)}
