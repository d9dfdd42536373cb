"""The Titans memory, literally: one token after another, the inner gradient by autograd.  [Titans eq. 8-10, 12-15]"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = Sequence[Tensor]
State = tuple[Weights, Weights, Weights, Tensor]


def titans(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    log_alpha: Tensor,
    log_beta: Tensor | None,
    start: Weights,
    state: State | None = None,
    *,
    chunk_size: int,
    residual: bool = False,
    to_start: bool = False,
    max_norm: float | None = None,
    mask: Tensor | None = None,
    read_after_write: bool = True,
) -> tuple[Tensor, Tensor, State]:
    """Write each token into a neural memory by gradient descent with momentum and retention, and read it.

        u_t = grad of |M(k_t) - v_t|^2 / 2 at the memory M' as it was when the token's chunk began
        S_t = beta_t S_{t-1} - eta_t u_t                                    [Titans eq. 10, 14]
        M_t = alpha_t M_{t-1} + S_t                                         [Titans eq. 9, 13]
        y_t = M_t(q_t), or M_{t-1}(q_t)                                     [Titans eq. 15]

    The oracle for `chunk.py`, whose docstring says what the arguments are: slow on purpose, and in whatever dtype it
    is given. The paper writes theta_t for eta_t, eta_t for beta_t, and 1 - alpha_t for alpha_t.
    """
    rows, length = eta.shape[:2]
    if state is None:
        weights = [w.expand(rows, *w.shape) for w in start]
        anchor, momentum = weights, [torch.zeros_like(w) for w in weights]
        filled = torch.zeros(rows, dtype=torch.long, device=eta.device)
    else:
        weights, anchor, momentum, filled = list(state[0]), list(state[1]), list(state[2]), state[3]
        momentum = momentum or [torch.zeros_like(w) for w in weights]
    y, surprise = [], []
    for t in range(length):
        alpha = log_alpha[:, t, :, None, None].exp()
        beta = torch.zeros_like(alpha) if log_beta is None else log_beta[:, t, :, None, None].exp()
        grads, norm = gradients(anchor, k[:, t], v[:, t], residual)
        grads = grads if max_norm is None else [g * max_norm / torch.clamp(norm, min=max_norm) for g in grads]
        moved = [beta * s - eta[:, t, :, None, None] * g for s, g in zip(momentum, grads, strict=True)]
        kept = [alpha * w + ((1 - alpha) * w0 if to_start else 0) for w, w0 in zip(weights, start, strict=True)]
        written = [w + s for w, s in zip(kept, moved, strict=True)]
        y.append(answer(written if read_after_write else weights, q[:, t], residual))
        surprise.append(norm[..., 0, 0].detach())
        real = torch.ones_like(filled, dtype=torch.bool) if mask is None else mask[:, t]
        weights, momentum = choose(real, written, weights), choose(real, moved, momentum)
        filled = filled + real
        anchor, filled = choose(filled == chunk_size, weights, anchor), filled % chunk_size
    if not length:
        return torch.zeros_like(v), torch.zeros_like(eta), (weights, anchor, momentum, filled)
    kept_slopes = [] if log_beta is None else momentum
    return torch.stack(y, 1), torch.stack(surprise, 1), (weights, anchor, kept_slopes, filled)


def answer(weights: Weights, x: Tensor, residual: bool) -> Tensor:
    """Return M(x) = W_L silu(W_{L-1} ... silu(W_1 x)), plus x with `residual`; x is [B, H, D], W [B, H, out, in]."""
    hidden = x
    for depth, weight in enumerate(weights):
        hidden = (weight @ (hidden if depth == 0 else F.silu(hidden)).unsqueeze(-1)).squeeze(-1)
    return x + hidden if residual else hidden


def gradients(weights: Weights, key: Tensor, value: Tensor, residual: bool) -> tuple[Weights, Tensor]:
    """Return each weight's gradient of |M(k) - v|^2 / 2, [Titans eq. 12], and their common norm, [B, H, 1, 1]."""

    def loss(weights: Weights) -> Tensor:
        return (answer(weights, key, residual) - value).square().sum() / 2

    grads = torch.func.grad(loss)(list(weights))
    square = sum((g.square().sum((-2, -1), keepdim=True) for g in grads), torch.zeros(()))
    # at a surprise of exactly zero the root has no derivative, and none is needed
    norm = torch.where(square > 0, square, 1).sqrt() * (square > 0)
    return grads, norm


def choose(rows: Tensor, new: Weights, old: Weights) -> list[Tensor]:
    """Take `new` in the rows that are True, [B], and `old` in the others."""
    return [torch.where(rows[:, None, None, None], a, b) for a, b in zip(new, old, strict=True)]
