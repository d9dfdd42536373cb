"""Deep momentum (DMGD): a small network, fitted to the gradients as they come, scales the momentum."""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.rules.adam import adam
from everlearn.rules.average import decaying_average
from everlearn.rules.shapes import as_matrix, root
from everlearn.rules.types import Slots

HIDDEN = 8
INNER = "gate_"  # prefix of the slots with which the network itself is trained


def deep_momentum(
    weights: Tensor,
    grad: Tensor,
    key: Tensor | None,
    slots: Slots,
    *,
    eta: float | Tensor,
    beta: float = 0.9,
    beta_slow: float = 0.99,
    beta2: float = 0.999,
    eps: float = 1e-8,
    eta_inner: float = 3e-3,
    samples: int = 2048,
) -> tuple[Tensor, Slots]:
    """Step along a momentum that a small network scales, one network for each matrix.  [NL eq. 50]

        a_t = m_t / (sqrt(v_t) + eps),   b_t likewise from a slower m: two bias-corrected averages of the gradients
        d_t = a_t * 2 sigmoid(net(|a_t|, |b_t|, a_t b_t)),   W_t = W_{t-1} - eta d_t rms(a_t) / rms(d_t)
        net: one Adam step per gradient on mean (d_{t-1} - g_t / (sqrt(v_{t-1}) + eps))^2

    The momentum becomes a memory with a hidden layer that learns, one step after the fact, to predict the gradient
    that arrived. The network starts at zero output, where this is `adam` bit for bit, and can change the size of an
    element but not its sign: a free network learned the oscillation of the gradients and pushed the wrong way.
    It did not help in any form that was tried, and its step costs about ten times Adam's on a CPU: for study only.

    Args:
        weights: what is changed, [..., out, in]; a vector [n] is one row.
        grad: its gradient, same shape.
        key: unused; every rule takes it.
        slots: {} before the first step, then "m", "m_slow", "v", [..., out, in], their masses, "gate": how far the
            network is from its start, [..., 8, 5], and with the prefix "gate_" what its own optimizer keeps.
        eta: step size in units of the weights, >= 0, broadcast against `weights`.
        beta: share of the old momentum that is kept, in [0, 1).
        beta_slow: the same for the slow one.
        beta2: the same for the average of squares; float32 squares overflow above 1e19.
        eps: added to sqrt(v), in units of the gradient.
        eta_inner: step size of the network, >= 0; 0 leaves Adam.
        samples: elements of a matrix that the network is fitted to in a step, evenly spaced; all where it has fewer.
    Returns:
        weights: the changed weights; the argument is left untouched.
        slots: the new ones.
    """
    g = as_matrix(grad)
    inner = {name.removeprefix(INNER): slot for name, slot in slots.items() if name.startswith(INNER)}
    gate = slots["gate"] if slots else g.new_zeros(*g.shape[:-2], HIDDEN, 5)
    slope = _slope(gate, g, slots, eps, samples) if slots else torch.zeros_like(gate)
    gate, inner = adam(gate, slope, None, inner, eta=eta_inner)
    fast, kept = decaying_average(slots, "m", g, beta)
    slow, kept_slow = decaying_average(slots, "m_slow", g, beta_slow, mass="m_slow_mass")
    v, kept_v = decaying_average(slots, "v", g.square(), beta2, mass="v_mass")
    scale = root(v) + eps
    plain = fast / scale
    scaled = _gated(gate, plain, slow / scale)
    step = scaled * _same_size(plain, scaled)
    slots = kept | kept_slow | kept_v | {"gate": gate} | {INNER + name: slot for name, slot in inner.items()}
    return weights - eta * step.reshape(weights.shape), slots


def _slope(gate: Tensor, grad: Tensor, slots: Slots, eps: float, samples: int) -> Tensor:
    """Return the gradient of the network's loss on what it would have said before this gradient came."""
    stride = -(-grad.shape[-2] * grad.shape[-1] // samples)

    def past(name: str, mass: str) -> Tensor:
        total = slots[name].flatten(-2)[..., ::stride].unsqueeze(-2)
        return total / torch.where(slots[mass] > 0, slots[mass], 1.0)

    scale = root(past("v", "v_mass")) + eps
    fast, slow = past("m", "mass") / scale, past("m_slow", "m_slow_mass") / scale
    # a first large gradient after small ones counts as ten times their size
    target = (grad.flatten(-2)[..., ::stride].unsqueeze(-2) / scale).clamp(-10.0, 10.0)

    def loss(gate: Tensor) -> Tensor:
        return (_gated(gate, fast, slow) - target).square().mean(-1).sum()

    started = slots["mass"] > 0
    return torch.where(started, torch.func.grad(loss)(gate), 0.0)


def _gated(gate: Tensor, fast: Tensor, slow: Tensor) -> Tensor:
    """Scale `fast` elementwise by 2 sigmoid(net(features)); fast and slow are [..., out, in]."""
    own = gate + _start(gate)
    features = torch.stack([fast.abs(), slow.abs(), fast * slow, torch.ones_like(fast)], -1)
    hidden = torch.tanh(torch.einsum("...ijf,...hf->...ijh", features, own[..., :4]))
    return fast * 2 * torch.sigmoid(torch.einsum("...ijh,...h->...ij", hidden, own[..., 4]))


def _start(like: Tensor) -> Tensor:
    """Return where every network starts, [8, 5]: eight different hidden units, and output weights of zero."""
    start = like.new_zeros(HIDDEN, 5)
    start[:, :4] = torch.arange(HIDDEN * 4, dtype=like.dtype, device=like.device).cos().reshape(HIDDEN, 4)
    return start


def _same_size(wanted: Tensor, tensor: Tensor) -> Tensor:
    """Return the factor that gives each matrix of `tensor` the root mean square of `wanted`."""
    size = tensor.square().mean((-2, -1), keepdim=True)
    some = size > 0
    ratio = wanted.square().mean((-2, -1), keepdim=True) / torch.where(some, size, 1.0)
    return torch.where(some, root(ratio), 1.0)
