"""Self-modifying Titans, literally: one token after another, the inner gradients by autograd.  [NL eq. 83-88, 90-93]"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from everlearn.ops.self_modifying.rule import Readouts, SelfModifyingRule, SelfModifyingState, Weights

K, V, ETA, ALPHA, MAIN, Q = range(6)


def self_modifying(
    q: Tensor,
    k_in: Tensor,
    v_in: Tensor,
    readouts: Readouts,
    state: SelfModifyingState,
    *,
    rule: SelfModifyingRule,
    anchor: Weights | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, SelfModifyingState]:
    """Let every memory write itself with values that it generates, and read the main one.  [NL eq. 83-88, 90-93]

        k = unit(M_k(x)),  v = unit(M_v(x)),  alpha and eta from M_alpha(x) and M_eta(x)          [NL eq. 83-85]
        y = M_main(q), before the token's own write                                               [NL eq. 86]
        v^ = unit(M(v)) of each memory M, of its own                                              [NL eq. 87]
        W <- W (alpha I - eta u u^T) - eta dL(M(k), v^)/dW,  u the input of W                     [NL eq. 88]

    Everything is generated, and the gradient taken, at the end of the memory's previous chunk [NL eq. 90-91]; with
    the dot product the gradient is -v^ k^T [NL eq. 92], with L2 (M(k) - v^) k^T [NL eq. 93]. k and v^ are data for the
    inner gradient; the outer one goes through everything.

    The oracle for `chunk.py`: slow on purpose, and in whatever dtype it is given. Arguments, results and options are
    those of `chunk.self_modifying`.
    """
    y = []
    for t in range(q.shape[1]):
        read, written = _token(q[:, t], k_in[:, t], v_in[:, t], readouts, state, rule, anchor)
        y.append(read)
        state = written if mask is None else _where(mask[:, t], written, state)
    return (torch.stack(y, 1) if y else torch.zeros_like(q)), state


def _token(
    q: Tensor,
    k_in: Tensor,
    v_in: Tensor,
    readouts: Readouts,
    state: SelfModifyingState,
    rule: SelfModifyingRule,
    anchor: Weights | None,
) -> tuple[Tensor, SelfModifyingState]:
    """Read and write one token, [B, H, D] each."""
    boundary = state.boundary
    k, v = _unit(_answer(_one(boundary, K), k_in)), _unit(_answer(_one(boundary, V), v_in))
    alpha = torch.sigmoid((readouts.alpha * _answer(_one(boundary, ALPHA), k_in)).sum(-1) + readouts.alpha_bias)
    rate = torch.sigmoid((readouts.eta * _answer(_one(boundary, ETA), k_in)).sum(-1) + readouts.eta_bias)
    eta = ((1 + alpha) * rate)[:, :, None, None, None]
    alpha = alpha[:, :, None, None, None]
    if boundary[0].shape[2] > Q:
        q = _unit(_answer(_one(boundary, Q), q))
    y = _answer(_one(boundary if rule.read_boundary else state.weights, MAIN), q)

    value = _unit(_answer(boundary, v.unsqueeze(2)))
    key = k.unsqueeze(2).expand_as(value)
    gradients = torch.func.grad(lambda weights: rule.objective.loss(_answer(weights, key), value).sum())(boundary)

    weights, momentum = [], []
    for i, (w, gradient, u) in enumerate(zip(state.weights, gradients, _inputs(boundary, key), strict=True)):
        step = eta / (1 + eta * u.square().sum(-1)[..., None, None]) if rule.implicit else eta
        forget = step if i == 0 or rule.decay_inner else 0 * step
        outer = u.unsqueeze(-1) @ u.unsqueeze(-2)
        transition = alpha * torch.eye(u.shape[-1], dtype=u.dtype, device=u.device) - forget * outer
        write = -step * gradient
        if rule.beta:
            write = rule.beta * state.momentum[i] + (1 - rule.beta) * write
            momentum.append(write)
        w = w @ transition + write
        weights.append(w if anchor is None else w + (1 - alpha) * anchor[i])

    filled = state.filled + 1
    ends = torch.tensor([m == MAIN for m in range(boundary[0].shape[2])], device=q.device)
    ends = torch.where(ends, (filled % rule.chunk_size == 0)[:, None], (filled % rule.others == 0)[:, None])
    ends = ends[:, None, :, None, None]
    renewed = tuple(torch.where(ends, w, b) for w, b in zip(weights, boundary, strict=True))
    return y, SelfModifyingState(tuple(weights), renewed, tuple(momentum), filled % rule.period)


def _answer(weights: Weights, x: Tensor) -> Tensor:
    """Return M(x) = x + S x, or x + W1 silu(W2 x); x is [..., D]."""
    return x + (weights[0] @ _inputs(weights, x)[0].unsqueeze(-1)).squeeze(-1)


def _inputs(weights: Weights, x: Tensor) -> tuple[Tensor, ...]:
    """Return what each weight matrix is multiplied with."""
    if len(weights) == 1:
        return (x,)
    return F.silu((weights[1] @ x.unsqueeze(-1)).squeeze(-1)), x


def _one(weights: Weights, memory: int) -> Weights:
    """Pick one memory: [B, H, M, out, in] -> [B, H, out, in]."""
    return tuple(w[:, :, memory] for w in weights)


def _unit(x: Tensor) -> Tensor:
    """Scale the last dimension to norm 1, smoothly at zero."""
    return x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()


def _where(rows: Tensor, new: SelfModifyingState, old: SelfModifyingState) -> SelfModifyingState:
    """Take the new state in some rows, [B] bool, and the old one in the others."""

    def pick(ours: Weights, theirs: Weights) -> Weights:
        pairs = zip(ours, theirs, strict=True)
        return tuple(torch.where(rows[:, None, None, None, None], a, b) for a, b in pairs)

    return SelfModifyingState(
        pick(new.weights, old.weights),
        pick(new.boundary, old.boundary),
        pick(new.momentum, old.momentum),
        torch.where(rows, new.filled, old.filled),
    )
