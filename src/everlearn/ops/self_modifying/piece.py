"""One piece of a chunk in closed form, for every option: no autograd inside and no loop over tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from everlearn.ops.self_modifying.recurrence import Writes, schedule, silu_slope, write
from everlearn.ops.self_modifying.rule import MAIN, Readouts, SelfModifyingRule, Weights
from everlearn.ops.unit import unit


class Tokens(NamedTuple):
    """What the memories are asked with; G = B * H groups of one row and one head.

    Args:
        q: [G, C, D].
        k_in: input of the memories of keys and of both gates, [G, C, D].
        v_in: input of the memory of values, [G, C, D].
        live: [G, C], 1 for a real token and 0 for padding; None means all are real.
    """

    q: Tensor
    k_in: Tensor
    v_in: Tensor
    live: Tensor | None

    def piece(self, start: int, stop: int) -> Tokens:
        """Return some of the tokens."""
        live = None if self.live is None else self.live[:, start:stop]
        return Tokens(self.q[:, start:stop], self.k_in[:, start:stop], self.v_in[:, start:stop], live)


class Generated(NamedTuple):
    """What the boundary state makes of the tokens: unit q, k and v [G, C, D]; eta and log alpha [G, C]."""

    q: Tensor
    k: Tensor
    v: Tensor
    eta: Tensor
    log_alpha: Tensor


def step(
    tokens: Tokens,
    readouts: Readouts,
    weights: Weights,
    boundary: Weights,
    momentum: Weights,
    anchor: Weights | None,
    rule: SelfModifyingRule,
) -> tuple[Tensor, Weights, Weights]:
    """Write a piece that lies within one chunk, and read it.  [NL eq. 83-88, 90-93]

    Args:
        tokens: the piece.
        readouts: [G, D] and [G].
        weights: what earlier tokens left, [G, M, out, in] each.
        boundary: what generates and what gradients are taken at, [G, M, out, in] each.
        momentum: like `weights`, or ().
        anchor: like `weights`, or None.
        rule: how.
    Returns:
        y: [G, C, D].
        weights: after the piece.
        momentum: after the piece.
    """
    made = generate(tokens, readouts, boundary)
    k, eta = made.k.unsqueeze(1), made.eta[:, None, :, None]
    inputs, gradients = _gradients(boundary, k, made.v.unsqueeze(1), rule)
    plan = schedule(made.log_alpha, rule.beta, tokens.live)
    writes: list[Writes] = []
    ends, moved = [], []
    for i, (w, u, g) in enumerate(zip(weights, inputs, gradients, strict=True)):
        rate = eta / (1 + eta * u.square().sum(-1, keepdim=True)) if rule.implicit else eta
        shape = w.shape
        solved, pushed = write(
            _rows(w, u),
            u,
            g,
            rate,
            rate if i == 0 or rule.decay_inner else None,
            plan,
            beta=rule.beta,
            momentum=_rows(momentum[i], u) if momentum else None,
            anchor=None if anchor is None else _rows(anchor[i], u),
        )
        writes.append(solved)
        ends.append(solved.end().reshape(shape))
        moved += [] if pushed is None else [pushed.reshape(shape)]
    if rule.read_boundary:
        y = _increment(boundary, MAIN, made.q)  # [NL eq. 90] literally
    else:
        y = _read_main(writes, made.q, weights[-1].shape[-2])
    return made.q + y, tuple(ends), tuple(moved)


def generate(tokens: Tokens, readouts: Readouts, boundary: Weights) -> Generated:
    """Return keys, values and gates as the boundary state generates them.  [NL eq. 83-85]"""
    k = unit(tokens.k_in + _increment(boundary, 0, tokens.k_in))
    v = unit(tokens.v_in + _increment(boundary, 1, tokens.v_in))
    rate, gate = (
        ((tokens.k_in + _increment(boundary, index, tokens.k_in)) @ vector.unsqueeze(-1)).squeeze(-1)
        + bias.unsqueeze(-1)
        for index, vector, bias in (
            (2, readouts.eta, readouts.eta_bias),
            (3, readouts.alpha, readouts.alpha_bias),
        )
    )
    log_alpha = F.logsigmoid(gate)
    eta = (1 + torch.sigmoid(gate)) * torch.sigmoid(rate)
    if tokens.live is not None:
        eta, log_alpha = eta * tokens.live, log_alpha * tokens.live
    q = unit(tokens.q + _increment(boundary, 5, tokens.q)) if boundary[0].shape[1] > 5 else tokens.q
    return Generated(q, k, v, eta, log_alpha)


def _gradients(boundary: Weights, k: Tensor, v: Tensor, rule: SelfModifyingRule) -> tuple[Weights, Weights]:
    """Return the inputs of each weight, [G, N, C, in], and the gradient by its output, [G, N, C, out].

    Every memory generates its own value [NL eq. 87]. Weights that all memories drive with the same input, the key,
    are one matrix with the outputs of all memories: N is 1 there.
    """
    if len(boundary) == 1:
        answers = k @ boundary[0].mT
        error = rule.objective.error(k + answers, unit(v + v @ boundary[0].mT))
        return (k,), (_side_by_side(error),)
    outer, inner = boundary
    z = k @ inner.mT
    h = F.silu(z)
    value = unit(v + F.silu(v @ inner.mT) @ outer.mT)
    error = rule.objective.error(k + h @ outer.mT, value)
    return (h, k), (error, _side_by_side((error @ outer) * silu_slope(z)))


def _increment(weights: Weights, memory: int, x: Tensor) -> Tensor:
    """Return M(x) - x of one memory; x is [G, C, D]."""
    if len(weights) == 1:
        return x @ weights[0][:, memory].mT
    return F.silu(x @ weights[1][:, memory].mT) @ weights[0][:, memory].mT


def _read_main(writes: list[Writes], q: Tensor, size: int) -> Tensor:
    """Return what the main memory adds to q, before each token's own write.  [NL eq. 86]

    `size` is how many outputs of the weights with shared inputs belong to one memory.
    """
    y = writes[-1].outputs(MAIN * size, (MAIN + 1) * size).read(q.unsqueeze(1))
    return (writes[0].memory(MAIN).read(F.silu(y)) if len(writes) == 2 else y).squeeze(1)


def _rows(weights: Tensor, inputs: Tensor) -> Tensor:
    """Put the outputs of all memories below one another where they share their inputs: [G, 1, M out, in]."""
    return weights if inputs.shape[1] > 1 else weights.flatten(1, 2).unsqueeze(1)


def _side_by_side(gradient: Tensor) -> Tensor:
    """Arrange [G, M, C, out] as the outputs of one matrix, [G, 1, C, M out]."""
    return gradient.transpose(1, 2).flatten(2).unsqueeze(1)
