"""Backward steps that the hand-written kernels share."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from everlearn.ops.blocks import decay
from everlearn.ops.self_modifying.rule import Readouts
from everlearn.ops.unit import EPS


class Gates(NamedTuple):
    """Both gates of a piece, and what their gradients need.

    Args:
        eta: [G, C, 1], 0 at padding.
        rate: sigmoid of the logit of eta, [G, C].
        alpha: [G, C], of padding too.
        kept: products of alpha from token to token, [G, C + 1, C + 1]; see `blocks.decay`.
    """

    eta: Tensor
    rate: Tensor
    alpha: Tensor
    kept: Tensor

    @property
    def before(self) -> Tensor:
        """Return what is left of the start before each token, [G, C, 1]."""
        return self.kept[:, :-1, :1]

    @property
    def within(self) -> Tensor:
        """Return what is left of each earlier token's write before each token, [G, C, C]."""
        return self.kept[:, :-1, 1:]

    @property
    def to_end(self) -> Tensor:
        """Return what is left of each token's write after the last one, [G, C, 1]."""
        return self.kept[:, -1, 1:, None]

    @property
    def whole(self) -> Tensor:
        """Return what is left of the start after the last token, [G, 1, 1]."""
        return self.kept[:, -1:, :1]


def gates(logits: Tensor, live: Tensor | None) -> Gates:
    """Return the gates of logits [G, C, 2], of eta and of alpha; live is [G, C] or None."""
    rate, alpha = torch.sigmoid(logits).unbind(-1)
    log_alpha, eta = F.logsigmoid(logits[..., 1]), (1 + alpha) * rate
    if live is not None:
        log_alpha, eta = log_alpha * live, eta * live
    return Gates(eta.unsqueeze(-1), rate, alpha, decay(log_alpha.unsqueeze(-1)))


def gates_backward(made: Gates, d_eta: Tensor, d_kept: Tensor, live: Tensor | None) -> Tensor:
    """Return the gradient by the logits, [G, C, 2], from those by eta [G, C] and by `kept`."""
    size = d_eta.shape[-1]
    ones = d_kept.new_ones(size + 1, size + 1)
    # the exponent of kept[t, i] sums the tokens after i up to t, so each token collects from all such pairs
    d_log_alpha = ((ones.tril(-1)[:, :size].mT @ (d_kept * made.kept)) * ones.tril()[:size]).sum(-1)
    if live is not None:
        d_eta, d_log_alpha = d_eta * live, d_log_alpha * live
    eta = (1 + made.alpha) * made.rate
    d_alpha = d_log_alpha + d_eta * made.rate * made.alpha
    return torch.stack([d_eta * eta * (1 - made.rate), d_alpha * (1 - made.alpha)], -1)


def gather_kept(d_before: Tensor, d_within: Tensor, d_to_end: Tensor, d_whole: Tensor) -> Tensor:
    """Put the gradients by the parts of `kept` in their places; see `Gates`."""
    top = torch.cat([d_before, d_within], -1)
    return torch.cat([top, torch.cat([d_whole, d_to_end.mT], -1)], 1)


def unit_and_scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return `unit(x)` and what x was multiplied with, [..., 1]."""
    scale = torch.rsqrt(x.square().sum(-1, keepdim=True) + EPS)
    return x * scale, scale


def unit_backward(d_unit: Tensor, unit: Tensor, scale: Tensor) -> Tensor:
    """Return the gradient by x of what `unit_and_scale` returned."""
    return scale * (d_unit - unit * (unit * d_unit).sum(-1, keepdim=True))


def inverse(strictly_lower: Tensor) -> Tensor:
    """Return (I + strictly lower)^-1, [G, C, C]; the rest of the matrix is not read."""
    eye = torch.eye(strictly_lower.shape[-1], dtype=strictly_lower.dtype, device=strictly_lower.device)
    return torch.linalg.solve_triangular(strictly_lower, eye, upper=False, unitriangular=True)


def both_gates(readouts: Readouts) -> tuple[Tensor, Tensor]:
    """Return the vectors of both gates, [G, 2, D], and their biases, [G, 1, 2]."""
    vectors = torch.stack([readouts.eta, readouts.alpha], 1)
    return vectors, torch.stack([readouts.eta_bias, readouts.alpha_bias], -1).unsqueeze(1)


def readout_gradients(d_vectors: Tensor, d_logits: Tensor) -> Readouts:
    """Return the gradients by the readouts of d_vectors [G, 2, D] and of the logits [G, C, 2]."""
    bias = d_logits.sum(1)
    return Readouts(d_vectors[:, 0], bias[:, 0], d_vectors[:, 1], bias[:, 1])
