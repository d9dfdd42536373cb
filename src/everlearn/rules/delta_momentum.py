"""Delta momentum: a memory of gradients that forgets by the delta rule."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from everlearn.rules.average import mass_after
from everlearn.rules.shapes import as_matrix, unit
from everlearn.rules.types import Slots

Map = Callable[[Tensor], Tensor]


def identity(grad: Tensor) -> Tensor:
    """Return the gradient as it is: no preconditioner, no feature map."""
    return grad


def delta_momentum(
    weights: Tensor,
    grad: Tensor,
    key: Tensor | None,
    slots: Slots,
    *,
    eta: float | Tensor,
    beta: float = 0.95,
    gamma: float = 0.9,
    precondition: Map = identity,
    feature_map: Map = identity,
) -> tuple[Tensor, Slots]:
    """Step along a momentum that forgets only what the new gradient contradicts.  [ours; NL eq. 48-49, 51]

        u_t = P g_t,   k_t = phi(u_t) / |phi(u_t)|
        m_t = beta m_{t-1} - gamma min(0, <m_{t-1}, k_t>) k_t + (1 - beta) u_t
        W_t = W_{t-1} - eta m_t / (1 - beta^t)

    The paper's memory removes what it held under the key of the new gradient whether it agrees or not, which also
    damps what is useful, and overflows as printed (`delta_momentum_printed`). This gate removes it only where it
    points the other way; while gradients agree it is `momentum` bit for bit. The bias correction is momentum's, of
    the averaging weights alone: what was forgotten is not made up for. It was measured to need fewer steps than
    momentum on deterministic problems and to gain nothing on noisy ones; take beta .99 for the former.

    Args:
        weights: what is changed, [..., out, in] or [n]; m and k are flattened over the last two dimensions.
        grad: its gradient, same shape.
        key: unused; every rule takes it. The key of this memory is the gradient.
        slots: {} before the first step, then {"m": like weights, "mass": [1, ..., 1]}.
        eta: step size in units of u, >= 0, broadcast against `weights`.
        beta: share of the old momentum that is kept, in [0, 1).
        gamma: share of the contradicted part that is removed on top, in [0, beta].
        precondition: u = P g, a function of the gradient alone.
        feature_map: phi, applied to u before the key is formed; same shape.
    Returns:
        weights: the changed weights; the argument is left untouched.
        slots: the new momentum and mass.
    Example:
        >>> W, slots = delta_momentum(torch.zeros(2), torch.tensor([1.0, 1.0]), None, {}, eta=1.0, beta=0.5, gamma=0.5)
        >>> delta_momentum(W, torch.tensor([-1.0, 0.0]), None, slots, eta=1.0, beta=0.5, gamma=0.5)[1]["m"]
        tensor([-0.5000,  0.2500])
    """
    u = precondition(grad)
    m = slots["m"] if slots else torch.zeros_like(u)
    dims = (-2, -1) if u.ndim > 1 else (-1,)
    k = unit(feature_map(u), dims)
    against = (m * k).sum(dims, keepdim=True).clamp_max(0.0)
    return _step(weights, beta * m - gamma * against * k + (1 - beta) * u, slots, eta, beta)


def delta_momentum_matrix(
    weights: Tensor,
    grad: Tensor,
    key: Tensor | None,
    slots: Slots,
    *,
    eta: float | Tensor,
    beta: float = 0.9,
    gamma: float = 0.3,
    precondition: Map = identity,
    feature_map: Map = identity,
) -> tuple[Tensor, Slots]:
    """Step along a momentum that forgets whatever it held under the new gradient.  [NL eq. 48-49, 51]

        u_t = P g_t,   k_t = phi(u_t) / |phi(u_t)|
        m_t = m_{t-1} (beta I - gamma k_t^T k_t) + (1 - beta) u_t
        W_t = W_{t-1} - eta m_t / (1 - beta^t)

    The printed rule with a key of norm 1, which cannot overflow while gamma <= beta. The decay acts on the inputs'
    side, because the gradient of |m g^T - P|^2 does. It also damps momentum that helps: with beta .9 it was slower
    than plain momentum on every toy that either solved, so `delta_momentum` is the default. Not for embeddings,
    whose rows k^T k would mix.

    Args:
        weights: what is changed, [..., out, in]; a vector [n] is one row.
        grad: its gradient, same shape.
        key: unused; every rule takes it. The key of this memory is the gradient.
        slots: {} before the first step, then {"m": like weights, "mass": [1, ..., 1]}.
        eta: step size in units of u, >= 0, broadcast against `weights`.
        beta: share of the old momentum that is kept, in [0, 1).
        gamma: share that is removed along the key, in [0, beta].
        precondition: u = P g, a function of the gradient alone.
        feature_map: phi, applied to u before the key is formed; same shape.
    Returns:
        weights: the changed weights; the argument is left untouched.
        slots: the new momentum and mass.
    """
    u = precondition(grad)
    m = as_matrix(slots["m"] if slots else torch.zeros_like(u))
    k = unit(as_matrix(feature_map(u)), (-2, -1))
    # the smaller of the two inner products
    held = (m @ k.mT) @ k if k.shape[-2] <= k.shape[-1] else m @ (k.mT @ k)
    return _step(weights, (beta * m - gamma * held).reshape(u.shape) + (1 - beta) * u, slots, eta, beta)


def delta_momentum_printed(
    weights: Tensor,
    grad: Tensor,
    key: Tensor | None,
    slots: Slots,
    *,
    eta: float | Tensor,
    alpha: float = 0.9,
    precondition: Map = identity,
) -> tuple[Tensor, Slots]:
    """Take the delta momentum step exactly as printed, which overflows.  [NL eq. 48-49]

        m_t = m_{t-1} (alpha I - eta g_t^T g_t) + eta P g_t
        W_t = W_{t-1} - m_t

    It is one gradient step on |m g^T - P|^2 / 2 with a decay alpha. Its key is the gradient at its own size, so m
    grows without bound once eta sigma_max(g)^2 > 1 + alpha; on the paper's own toys it solved none. For comparison
    only: each call warns.

    Args:
        weights: what is changed, [..., out, in]; a vector [n] is one row.
        grad: its gradient, same shape.
        key: unused; every rule takes it.
        slots: {} before the first step, then {"m": like weights}, in units of the weights.
        eta: step size inside the memory, >= 0.
        alpha: share of the old momentum that is kept, in [0, 1).
        precondition: P g, a function of the gradient alone.
    Returns:
        weights: the changed weights; the argument is left untouched.
        slots: the new momentum.
    """
    warnings.warn(
        "delta_momentum_printed overflows on gradients of ordinary size; use delta_momentum except to compare",
        stacklevel=2,
    )
    g = as_matrix(grad)
    m = as_matrix(slots["m"] if slots else torch.zeros_like(grad))
    m = (alpha * m - eta * (m @ g.mT) @ g).reshape(grad.shape) + eta * precondition(grad)
    return weights - m, {"m": m}


def _step(weights: Tensor, m: Tensor, slots: Slots, eta: float | Tensor, beta: float) -> tuple[Tensor, Slots]:
    """Step along the bias-corrected momentum and keep it."""
    mass = mass_after(slots, m, beta)
    return weights - eta * (m / mass), {"m": m, "mass": mass}
