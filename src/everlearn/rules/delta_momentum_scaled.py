"""Gated delta momentum of gradients that are first divided by their own size."""

from __future__ import annotations

from torch import Tensor

from everlearn.rules.average import decaying_average
from everlearn.rules.delta_momentum import Map, delta_momentum, identity
from everlearn.rules.shapes import root
from everlearn.rules.types import Slots


def delta_momentum_scaled(
    weights: Tensor,
    grad: Tensor,
    key: Tensor | None,
    slots: Slots,
    *,
    eta: float | Tensor,
    beta: float = 0.95,
    gamma: float = 0.9,
    beta2: float = 0.99,
    eps: float = 1e-8,
    precondition: Map = identity,
    feature_map: Map = identity,
) -> tuple[Tensor, Slots]:
    """Step along a gated delta momentum of u = P g with the P of `preconditioned`.  [ours; NL eq. 46-49]

        v_t = beta2 v_{t-1} + (1 - beta2) g_t^2,   u_t = g_t / (sqrt(v_t / (1 - beta2^t)) + eps)
        m, W as in `delta_momentum`, of u_t

    With gamma 0 it is `preconditioned`. On a small vision Transformer and other noisy training the gate gained nothing
    over that; it stands here so that the comparison can be made.

    Args:
        weights: what is changed, [..., out, in] or [n].
        grad: its gradient, same shape.
        key: unused; every rule takes it.
        slots: {} before the first step, then "m", "v" like the weights and their masses.
        eta: step size in units of the weights, >= 0, broadcast against `weights`.
        beta: share of the old momentum that is kept, in [0, 1).
        gamma: share of the contradicted part that is removed on top, in [0, beta].
        beta2: share of the old average of squares that is kept, in [0, 1).
        eps: added to sqrt(v), in units of the gradient.
        precondition: applied to u, before it is remembered.
        feature_map: applied to that before the key is formed.
    Returns:
        weights: the changed weights; the argument is left untouched.
        slots: the new averages.
    """
    v, kept = decaying_average(slots, "v", grad.square(), beta2, mass="v_mass")
    own = {name: slot for name, slot in slots.items() if name not in kept}
    maps = {"precondition": precondition, "feature_map": feature_map}
    weights, own = delta_momentum(weights, grad / (root(v) + eps), key, own, eta=eta, beta=beta, gamma=gamma, **maps)
    return weights, own | kept
