"""The default rule for matrix memories, forward and backward by hand. The README derives both."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from everlearn.ops.self_modifying import adjoint
from everlearn.ops.self_modifying.adjoint import Gates
from everlearn.ops.self_modifying.piece import Tokens
from everlearn.ops.self_modifying.rule import DOT, MAIN, Readouts, SelfModifyingRule, Weights
from everlearn.ops.unit import unit


class Made(NamedTuple):
    """What the boundary generated of a piece; G groups, C tokens, M memories of [D, D]."""

    readers: Tensor  # what k_in is multiplied with to give the logits of both gates, [G, D, 2]
    gates: Gates
    k: Tensor  # [G, C, D]
    k_scale: Tensor
    v: Tensor  # [G, C, D]
    v_scale: Tensor
    value: Tensor  # what each memory generates for itself, [G, C, M, D]
    value_scale: Tensor


class Trace(NamedTuple):
    """What the forward pass of a piece computed."""

    made: Made
    held: Tensor  # what the memories at the start of the piece answer for the keys, [G, C, M D]
    missing: Tensor  # value less what the decayed start holds, [G, C, M D]
    gram: Tensor  # k k^T, [G, C, C]
    inverse: Tensor  # [G, C, C]
    writes: Tensor  # what multiplies the transpose of each key, [G, C, M D]
    reads: Tensor  # q k^T, [G, C, C]
    start: Tensor  # what the main memory at the start of the piece answers for q, [G, C, D]


class MatrixKernel:
    """M(x) = x + S x, dot product, plain steps, read before the token's own write.  [NL eq. 83-88, 90, 92]"""

    @staticmethod
    def serves(weights: Weights, momentum: Weights, anchor: Weights | None, rule: SelfModifyingRule) -> bool:
        """Tell whether these memories and this rule are what it computes; decay_inner has no meaning for them."""
        plain = rule.objective is DOT and not (rule.implicit or rule.read_boundary or momentum or anchor)
        return plain and len(weights) == 1 and weights[0].shape[1] == MAIN + 1

    @staticmethod
    def forward(
        tokens: Tokens, readouts: Readouts, weights: Weights, boundary: Weights
    ) -> tuple[Tensor, Weights, Trace]:
        """Write and read one piece; see `piece.step`."""
        (now,) = weights
        made = _generate(tokens, readouts, boundary[0])
        gates, k = made.gates, made.k
        held, gram, reads = k @ now.flatten(1, 2).mT, k @ k.mT, tokens.q @ k.mT
        missing = torch.addcmul(made.value.flatten(2), gates.before, held, value=-1)
        inverse = adjoint.inverse(gates.eta * gram * gates.within)
        writes = inverse @ (gates.eta * missing)
        start = tokens.q @ now[:, MAIN].mT
        main = writes.unflatten(-1, now.shape[1:3])[:, :, MAIN]
        y = torch.addcmul(tokens.q, gates.before, start).baddbmm_(reads * gates.within, main)
        after = (gates.whole * now.flatten(1, 2)).baddbmm_((gates.to_end * writes).mT, k)
        return y, (after.view_as(now),), Trace(made, held, missing, gram, inverse, writes, reads, start)

    @staticmethod
    def one_token(tokens: Tokens, readouts: Readouts, weights: Weights, boundary: Weights) -> tuple[Tensor, Weights]:
        """Return what `forward` does for pieces of one token, without the algebra of a block and without a trace."""
        (now,), (then,) = weights, boundary
        k = unit(torch.baddbmm(tokens.k_in, tokens.k_in, then[:, 0].mT))
        v = unit(torch.baddbmm(tokens.v_in, tokens.v_in, then[:, 1].mT))
        rate, alpha = torch.sigmoid(_logits(tokens, readouts, then)[1]).split(1, -1)
        eta = (1 + alpha) * rate
        if tokens.live is not None:
            real = tokens.live.unsqueeze(-1)
            eta, alpha = eta * real, torch.where(real > 0, alpha, 1.0)
        value = unit((v @ then.flatten(1, 2).mT).unflatten(-1, then.shape[1:3]) + v.unsqueeze(2))
        write = eta * (value.flatten(2) - k @ now.flatten(1, 2).mT)
        y = torch.baddbmm(tokens.q, tokens.q, now[:, MAIN].mT)
        return y, ((alpha * now.flatten(1, 2)).baddbmm_(write.mT, k).view_as(now),)

    @staticmethod
    def backward(
        tokens: Tokens, readouts: Readouts, weights: Weights, boundary: Weights, t: Trace, d_y: Tensor, d_after: Weights
    ) -> tuple[Tensor, Tensor, Tensor, Readouts, Weights, Weights]:
        """Return the gradients by q, k_in, v_in, the readouts, the weights and the boundary."""
        (now,), (d_end,) = weights, d_after
        gates, q, k = t.made.gates, tokens.q, t.made.k
        flat, d_flat = now.flatten(1, 2), d_end.flatten(1, 2)
        main = t.writes.unflatten(-1, now.shape[1:3])[:, :, MAIN]

        # the state after the piece
        d_now = gates.whole * d_flat
        d_whole = (d_flat * flat).sum((1, 2), keepdim=True)
        from_writes = t.writes @ d_flat
        d_to_end = (from_writes * k).sum(-1, keepdim=True)
        d_k = gates.to_end * from_writes
        d_writes = gates.to_end * (k @ d_flat.mT)

        # the read
        d_mixed = d_y @ main.mT
        d_reads, d_within = d_mixed * gates.within, d_mixed * t.reads
        d_writes.unflatten(-1, now.shape[1:3])[:, :, MAIN] += (t.reads * gates.within).mT @ d_y
        d_before = (d_y * t.start).sum(-1, keepdim=True)
        d_start = gates.before * d_y
        d_q = d_y + (d_start @ now[:, MAIN]).baddbmm_(d_reads, k)
        d_k.baddbmm_(d_reads.mT, q)

        # the system that the writes solve
        d_right = t.inverse.mT @ d_writes
        d_lower = -(d_right @ t.writes.mT)
        d_gram = d_lower * gates.within
        d_eta = (d_gram * t.gram).sum(-1) + (d_right * t.missing).sum(-1)
        d_gram = gates.eta * d_gram
        d_within = d_within + gates.eta * t.gram * d_lower
        d_missing = gates.eta * d_right
        d_before = d_before - (d_missing * t.held).sum(-1, keepdim=True)
        d_held = -gates.before * d_missing
        d_k.baddbmm_(d_gram + d_gram.mT, k).baddbmm_(d_held, flat)
        d_now = d_now.baddbmm_(d_held.mT, k).view_as(now)
        d_now[:, MAIN] += d_start.mT @ q

        d_kept = adjoint.gather_kept(d_before, d_within, d_to_end, d_whole)
        d_logits = adjoint.gates_backward(gates, d_eta, d_kept, tokens.live)
        d_x, d_v_in, d_readouts, d_then = _generate_backward(
            tokens, readouts, boundary[0], t.made, d_logits, d_k, d_missing.view_as(t.made.value)
        )
        return d_q, d_x, d_v_in, d_readouts, (d_now,), (d_then,)


def _generate(tokens: Tokens, readouts: Readouts, then: Tensor) -> Made:
    """Ask the boundary for keys, values and gates, and every memory for the value of its own."""
    k, k_scale = adjoint.unit_and_scale(torch.baddbmm(tokens.k_in, tokens.k_in, then[:, 0].mT))
    v, v_scale = adjoint.unit_and_scale(torch.baddbmm(tokens.v_in, tokens.v_in, then[:, 1].mT))
    readers, logits = _logits(tokens, readouts, then)
    gates = adjoint.gates(logits, tokens.live)
    answers = (v @ then.flatten(1, 2).mT).unflatten(-1, then.shape[1:3])
    return Made(readers, gates, k, k_scale, v, v_scale, *adjoint.unit_and_scale(answers + v.unsqueeze(2)))


def _logits(tokens: Tokens, readouts: Readouts, then: Tensor) -> tuple[Tensor, Tensor]:
    """Return what k_in is multiplied with for both gates, [G, D, 2], and their logits, [G, C, 2]."""
    vectors, biases = adjoint.both_gates(readouts)
    readers = (vectors + (vectors.unsqueeze(-2) @ then[:, 2:4]).squeeze(-2)).mT
    return readers, torch.baddbmm(biases, tokens.k_in, readers)


def _generate_backward(
    tokens: Tokens, readouts: Readouts, then: Tensor, made: Made, d_logits: Tensor, d_k: Tensor, d_value: Tensor
) -> tuple[Tensor, Tensor, Readouts, Tensor]:
    """Return the gradients by k_in, v_in, the readouts and the boundary."""
    x, v = tokens.k_in, made.v
    d_answers = adjoint.unit_backward(d_value, made.value, made.value_scale)
    d_v = d_answers.sum(2).baddbmm_(d_answers.flatten(2), then.flatten(1, 2))
    d_v = adjoint.unit_backward(d_v, v, made.v_scale)
    d_k = adjoint.unit_backward(d_k, made.k, made.k_scale)
    d_then = (d_answers.flatten(2).mT @ v).view_as(then)
    d_then[:, 0] += d_k.mT @ x
    d_then[:, 1] += d_v.mT @ tokens.v_in
    vectors, _ = adjoint.both_gates(readouts)
    d_readers = d_logits.mT @ x  # [G, 2, D]
    d_then[:, 2:4] += vectors.unsqueeze(-1) * d_readers.unsqueeze(-2)
    d_vectors = d_readers + (then[:, 2:4] @ d_readers.unsqueeze(-1)).squeeze(-1)
    d_x = torch.baddbmm(d_k, d_k, then[:, 0]).baddbmm_(d_logits, made.readers.mT)
    return d_x, torch.baddbmm(d_v, d_v, then[:, 1]), adjoint.readout_gradients(d_vectors, d_logits), d_then
