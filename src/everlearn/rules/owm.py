"""Orthogonal weight modification: a slow memory of the inputs protects what earlier ones need.  [ours]"""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.rules.average import decaying_average
from everlearn.rules.directions import second_moment
from everlearn.rules.keys import key_block
from everlearn.rules.shapes import as_matrix, one_each
from everlearn.rules.types import Slots


def owm(
    weights: Tensor,
    grad: Tensor,
    key: Tensor | None,
    slots: Slots,
    *,
    eta: float | Tensor,
    beta: float = 0.9,
    kappa: float = 1.0,
    refresh_period: int = 10,
) -> tuple[Tensor, Slots]:
    """Step along the momentum where earlier inputs do not look.  [ours; NL eq. 47]

        C_t = mean over the keys of x x^T / |x|^2,   S_t = S_{t-1} + C_t
        P = (I + kappa S)^-1, refreshed every f steps
        m_t = beta m_{t-1} + (1 - beta) g_t,   W_t = W_{t-1} - eta (m_t / (1 - beta^t)) P

    The paper's preconditioned momentum with a P that is itself a slower memory level. It is orthogonal weight
    modification (Zeng et al. 2019) kept online, which is recursive least squares; the exact form for one record at a
    time is `least_squares`. Between refreshes P does not know the newest inputs, and a large step along them would
    diverge, so a P for which f eta tr(C P) >= 1 is refreshed at once: new inputs refresh it in every step until
    they are held well enough to wait. The refresh is decided from the slots, so this rule does not run under
    torch.func.vmap; give it batches of matrices instead.

    Args:
        weights: what is changed, [..., out, in]; a vector [n] is one row.
        grad: its gradient, same shape.
        key: the layer's inputs, [..., T, in], or one, [..., in].
        slots: {} before the first step, then "m" like the weights, "mass", "scatter" (S) and "precision" (P),
            [..., in, in], float32 for weights in half precision, and "phase", steps since the last refresh.
        eta: step size in units of the gradient, >= 0, a number or [..., 1, 1]; about three times that of `gd`.
        beta: share of the old momentum that is kept, in [0, 1).
        kappa: how strongly an input is protected, >= 0; 0 is `momentum`.
        refresh_period: f, steps between two refreshes of P, >= 1; one refresh inverts [in, in].
    Returns:
        weights: the changed weights; the argument is left untouched.
        slots: the new ones.
    Raises:
        ValueError: no key, or keys that do not fit the weights.
    """
    newest = second_moment(key_block("owm", key, weights))
    return owm_by_moment(weights, grad, newest, slots, eta=eta, beta=beta, kappa=kappa, refresh_period=refresh_period)


def owm_by_moment(
    weights: Tensor,
    grad: Tensor,
    newest: Tensor,
    slots: Slots,
    *,
    eta: float | Tensor,
    beta: float,
    kappa: float,
    refresh_period: int,
) -> tuple[Tensor, Slots]:
    """Take the step of `owm`, given C instead of the keys that it is the moment of.

    Args:
        newest: C, `second_moment` of the keys, [..., in, in].
    """
    m, kept = decaying_average(slots, "m", as_matrix(grad), beta)
    scatter = slots["scatter"] + newest if slots else newest
    precision, phase = _refreshed(slots, scatter, newest, eta, kappa, refresh_period)
    kept |= {"scatter": scatter, "precision": precision, "phase": phase}
    moved = weights - eta * (m.to(precision.dtype) @ precision).reshape(weights.shape)
    return moved.to(weights.dtype), kept


def _refreshed(
    slots: Slots, scatter: Tensor, newest: Tensor, eta: float | Tensor, kappa: float, period: int
) -> tuple[Tensor, Tensor]:
    """Return P, new where its period is over or where it lags behind the newest inputs, and the phase."""
    precision = slots["precision"] if slots else torch.zeros_like(scatter)
    phase = slots["phase"] if slots else one_each(scatter)
    # the trace bounds the largest eigenvalue of C P from above
    lag = period * eta * (newest * precision).sum((-2, -1), keepdim=True)
    due = (phase == 0) | (lag >= 1)
    if bool(due.any()):
        eye = torch.eye(scatter.shape[-1], dtype=scatter.dtype, device=scatter.device)
        precision = torch.where(due, torch.linalg.inv(eye + kappa * scatter), precision)
    return precision, torch.where(due, 1.0, phase + 1) % period
