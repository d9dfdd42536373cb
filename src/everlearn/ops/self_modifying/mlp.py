"""The default rule for MLP memories, forward and backward by hand. The README derives both."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from everlearn.ops.self_modifying import adjoint
from everlearn.ops.self_modifying.adjoint import Gates
from everlearn.ops.self_modifying.piece import Tokens
from everlearn.ops.self_modifying.recurrence import silu_slope
from everlearn.ops.self_modifying.rule import DOT, MAIN, Readouts, SelfModifyingRule, Weights


class Asked(NamedTuple):
    """One input through one memory at the boundary: z = x W2^T, h = silu(z)."""

    z: Tensor  # [G, C, N]
    h: Tensor


class Made(NamedTuple):
    """What the boundary generated of a piece; G groups, C tokens, M memories of [D, N] and [N, D]."""

    asked: tuple[Asked, ...]  # the memories of k, v, eta and alpha
    readers: Tensor  # what the hidden layers of the gates' memories are multiplied with, [G, 2, N]
    gates: Gates
    k: Tensor  # [G, C, D]
    k_scale: Tensor
    v: Tensor  # [G, C, D]
    v_scale: Tensor
    z_k: Tensor  # of every memory for the keys, [G, M, C, N]
    h: Tensor
    z_v: Tensor  # of every memory for the values, [G, M, C, N]
    value: Tensor  # what each memory generates for itself, [G, M, C, D]
    value_scale: Tensor
    pull: Tensor  # value W1, which times the slope at z_k is what W2 is written with, [G, M, C, N]


class Trace(NamedTuple):
    """What the forward pass of a piece computed."""

    made: Made
    outer_step: Tensor  # eta / (1 + eta |h|^2), [G, M, C, 1]
    inner_step: Tensor  # eta / (1 + eta |k|^2), [G, C, 1]
    held: Tensor  # what W1 at the start of the piece makes of h, [G, M, C, D]
    missing: Tensor  # value less what the decayed start holds
    gram: Tensor  # h h^T, [G, M, C, C]
    inverse: Tensor  # [G, M, C, C]
    outer: Tensor  # what multiplies the transpose of each h, [G, M, C, D]
    inner: Tensor  # what multiplies the transpose of each k, [G, C, M, N]
    reads: Tensor  # q k^T, [G, C, C]
    start: Tensor  # what W2 of the main memory at the start makes of q, [G, C, N]
    z_q: Tensor  # [G, C, N]


class MLPKernel:
    """M(x) = x + W1 silu(W2 x), dot product, implicit steps, W1 alone forgets along its input.  [NL eq. 83-88, 90]"""

    @staticmethod
    def serves(weights: Weights, momentum: Weights, anchor: Weights | None, rule: SelfModifyingRule) -> bool:
        """Tell whether these memories and this rule are what it computes."""
        plain = rule.objective is DOT and not (rule.decay_inner or rule.read_boundary or momentum or anchor)
        return plain and rule.implicit and len(weights) == 2 and weights[0].shape[1] == MAIN + 1

    @staticmethod
    def forward(
        tokens: Tokens, readouts: Readouts, weights: Weights, boundary: Weights
    ) -> tuple[Tensor, Weights, Trace]:
        """Write and read one piece; see `piece.step`."""
        w1, w2 = weights
        made = _generate(tokens, readouts, boundary)
        gates, k, h = made.gates, made.k, made.h
        eta = gates.eta.unsqueeze(1)
        outer_step = eta / (1 + eta * h.square().sum(-1, keepdim=True))
        inner_step = gates.eta / (1 + gates.eta * k.square().sum(-1, keepdim=True))
        within, before = gates.within.unsqueeze(1), gates.before.unsqueeze(1)
        held, gram = h @ w1.mT, h @ h.mT
        missing = made.value - before * held
        inverse = adjoint.inverse(outer_step * gram * within)
        outer = inverse @ (outer_step * missing)
        inner = (inner_step.unsqueeze(1) * made.pull * silu_slope(made.z_k)).transpose(1, 2)

        reads, start = tokens.q @ k.mT, tokens.q @ w2[:, MAIN].mT
        z_q = gates.before * start + (reads * gates.within) @ inner[:, :, MAIN]
        h_q = F.silu(z_q)
        mixed = (h_q @ h[:, MAIN].mT) * gates.within
        y = tokens.q + gates.before * (h_q @ w1[:, MAIN].mT) + mixed @ outer[:, MAIN]
        whole, to_end = gates.whole.unsqueeze(1), gates.to_end.unsqueeze(1)
        after1 = whole * w1 + (to_end * outer).mT @ h
        after2 = gates.whole * w2.flatten(1, 2) + (gates.to_end * inner.flatten(2)).mT @ k
        trace = Trace(made, outer_step, inner_step, held, missing, gram, inverse, outer, inner, reads, start, z_q)
        return y, (after1, after2.view_as(w2)), trace

    @staticmethod
    def one_token(tokens: Tokens, readouts: Readouts, weights: Weights, boundary: Weights) -> tuple[Tensor, Weights]:
        """Return what `forward` does for pieces of one token, without its trace."""
        return MLPKernel.forward(tokens, readouts, weights, boundary)[:2]

    @staticmethod
    def backward(
        tokens: Tokens, readouts: Readouts, weights: Weights, boundary: Weights, t: Trace, d_y: Tensor, d_after: Weights
    ) -> tuple[Tensor, Tensor, Tensor, Readouts, Weights, Weights]:
        """Return the gradients by q, k_in, v_in, the readouts, the weights and the boundary."""
        (w1, w2), (e1, e2), made = weights, d_after, t.made
        gates, k, h = made.gates, made.k, made.h
        whole, to_end, within = gates.whole.unsqueeze(1), gates.to_end.unsqueeze(1), gates.within.unsqueeze(1)
        before = gates.before.unsqueeze(1)

        # the state after the piece
        d_w1, d_w2, flat = whole * e1, whole * e2, e2.flatten(1, 2)
        d_whole = ((e1 * w1).sum((1, 2, 3)) + (e2 * w2).sum((1, 2, 3)))[:, None, None]
        from_outer, from_inner = t.outer @ e1, t.inner.flatten(2) @ flat
        d_to_end = (from_outer * h).sum((1, 3)).unsqueeze(-1) + (from_inner * k).sum(-1, keepdim=True)
        d_h, d_k = to_end * from_outer, gates.to_end * from_inner
        d_outer = to_end * (h @ e1.mT)
        d_inner = (gates.to_end * (k @ flat.mT)).unflatten(-1, w2.shape[1:3])

        # the read
        d_q, d_read = _read_backward(tokens.q, weights, t, d_y)
        d_w1[:, MAIN] += d_read.w1
        d_w2[:, MAIN] += d_read.w2
        d_h[:, MAIN] += d_read.h
        d_outer[:, MAIN] += d_read.outer
        d_inner[:, :, MAIN] += d_read.inner
        d_k = d_k + d_read.k

        # the system that the writes of W1 solve
        d_right = t.inverse.mT @ d_outer
        d_lower = -(d_right @ t.outer.mT)
        d_gram = d_lower * within
        d_outer_step = (d_gram * t.gram).sum(-1, keepdim=True) + (d_right * t.missing).sum(-1, keepdim=True)
        d_gram = t.outer_step * d_gram
        d_within = d_read.within + (t.outer_step * d_lower * t.gram).sum(1)
        d_value = t.outer_step * d_right
        d_before = d_read.before - (d_value * t.held).sum((1, 3)).unsqueeze(-1)
        d_held = -before * d_value
        d_h = d_h + (d_gram + d_gram.mT) @ h + d_held @ w1
        d_w1 = d_w1 + d_held.mT @ h

        # the writes of W2, and both steps
        d_inner, slope = d_inner.transpose(1, 2), silu_slope(made.z_k)
        d_inner_step = (d_inner * made.pull * slope).sum((1, 3)).unsqueeze(-1)
        d_written = t.inner_step.unsqueeze(1) * d_inner
        d_pull, d_slope = d_written * slope, d_written * made.pull
        d_h = d_h - 2 * h * (d_outer_step * t.outer_step.square())
        d_k = d_k - 2 * k * (d_inner_step * t.inner_step.square())
        eta = gates.eta.unsqueeze(1)
        d_eta = (d_outer_step / (1 + eta * h.square().sum(-1, keepdim=True)).square()).sum(1)
        d_eta = d_eta + d_inner_step / (1 + gates.eta * k.square().sum(-1, keepdim=True)).square()

        d_kept = adjoint.gather_kept(d_before, d_within, d_to_end, d_whole)
        d_logits = adjoint.gates_backward(gates, d_eta.squeeze(-1), d_kept, tokens.live)
        d_made = DMade(d_logits, d_k, d_h * slope + d_slope * _curvature(made.z_k), d_value, d_pull)
        d_x, d_v_in, d_readouts, d_boundary = _generate_backward(tokens, readouts, boundary, made, d_made)
        return d_q, d_x, d_v_in, d_readouts, (d_w1, d_w2), d_boundary


class DRead(NamedTuple):
    """Gradients of the read by what belongs to the main memory, and by what all share."""

    w1: Tensor
    w2: Tensor
    h: Tensor
    outer: Tensor
    inner: Tensor
    k: Tensor
    within: Tensor
    before: Tensor


class DMade(NamedTuple):
    """Gradients by what the boundary generated."""

    logits: Tensor
    k: Tensor
    z_k: Tensor
    value: Tensor
    pull: Tensor


def _generate(tokens: Tokens, readouts: Readouts, boundary: Weights) -> Made:
    """Ask the boundary for keys, values and gates, and every memory for the value of its own."""
    b1, b2 = boundary
    z = [source @ b2[:, m].mT for m, source in enumerate((tokens.k_in, tokens.v_in, tokens.k_in, tokens.k_in))]
    asked = [Asked(each, F.silu(each)) for each in z]
    k, k_scale = adjoint.unit_and_scale(tokens.k_in + asked[0].h @ b1[:, 0].mT)
    v, v_scale = adjoint.unit_and_scale(tokens.v_in + asked[1].h @ b1[:, 1].mT)
    vectors, biases = adjoint.both_gates(readouts)
    readers = (vectors.unsqueeze(-2) @ b1[:, 2:4]).squeeze(-2)
    hidden = torch.stack([(asked[2 + j].h @ readers[:, j].unsqueeze(-1)).squeeze(-1) for j in range(2)], -1)
    gates = adjoint.gates(biases + tokens.k_in @ vectors.mT + hidden, tokens.live)
    z_k, z_v = ((x @ b2.flatten(1, 2).mT).unflatten(-1, b2.shape[1:3]).transpose(1, 2).contiguous() for x in (k, v))
    value, value_scale = adjoint.unit_and_scale(v.unsqueeze(1) + F.silu(z_v) @ b1.mT)
    return Made(
        tuple(asked), readers, gates, k, k_scale, v, v_scale, z_k, F.silu(z_k), z_v, value, value_scale, value @ b1
    )


def _read_backward(q: Tensor, weights: Weights, t: Trace, d_y: Tensor) -> tuple[Tensor, DRead]:
    """Return the gradients by q, and by the rest that was read."""
    w1, w2 = (w[:, MAIN] for w in weights)
    gates, k, h = t.made.gates, t.made.k, t.made.h[:, MAIN]
    outer, inner, h_q = t.outer[:, MAIN], t.inner[:, :, MAIN], F.silu(t.z_q)
    grams = h_q @ h.mT
    d_before = (d_y * (h_q @ w1.mT)).sum(-1, keepdim=True)
    d_start1, d_mixed1 = gates.before * d_y, d_y @ outer.mT
    d_grams = d_mixed1 * gates.within
    d_z = (d_start1 @ w1 + d_grams @ h) * silu_slope(t.z_q)
    d_before = d_before + (d_z * t.start).sum(-1, keepdim=True)
    d_start2, d_mixed2 = gates.before * d_z, d_z @ inner.mT
    d_reads = d_mixed2 * gates.within
    d_q = d_y + d_start2 @ w2 + d_reads @ k
    rest = DRead(
        w1=d_start1.mT @ h_q,
        w2=d_start2.mT @ q,
        h=d_grams.mT @ h_q,
        outer=(grams * gates.within).mT @ d_y,
        inner=(t.reads * gates.within).mT @ d_z,
        k=d_reads.mT @ q,
        within=d_mixed1 * grams + d_mixed2 * t.reads,
        before=d_before,
    )
    return d_q, rest


def _generate_backward(
    tokens: Tokens, readouts: Readouts, boundary: Weights, made: Made, d: DMade
) -> tuple[Tensor, Tensor, Readouts, Weights]:
    """Return the gradients by k_in, v_in, the readouts and the boundary."""
    (b1, b2), v = boundary, made.v
    d_answers = adjoint.unit_backward(d.value + d.pull @ b1.mT, made.value, made.value_scale)
    d_z_v = (d_answers @ b1) * silu_slope(made.z_v)
    d_b1 = d_answers.mT @ F.silu(made.z_v) + made.value.mT @ d.pull
    flat, flat_v, flat_k = b2.flatten(1, 2), d_z_v.transpose(1, 2).flatten(2), d.z_k.transpose(1, 2).flatten(2)
    d_v = adjoint.unit_backward(d_answers.sum(1) + flat_v @ flat, v, made.v_scale)
    d_k = adjoint.unit_backward(d.k + flat_k @ flat, made.k, made.k_scale)
    d_b2 = (flat_v.mT @ v + flat_k.mT @ made.k).view_as(b2)

    vectors, _ = adjoint.both_gates(readouts)
    d_x, d_v_in = d_k + d.logits @ vectors, d_v
    d_vectors = d.logits.mT @ tokens.k_in
    for m in range(4):
        source, asked = tokens.v_in if m == 1 else tokens.k_in, made.asked[m]
        if m < 2:
            d_out = (d_k, d_v)[m]
            d_hidden = d_out @ b1[:, m]
            d_b1[:, m] += d_out.mT @ asked.h
        else:
            d_logit, j = d.logits[..., m - 2 : m - 1], m - 2
            d_hidden = d_logit * made.readers[:, j : j + 1]
            d_reader = d_logit.mT @ asked.h  # [G, 1, N]
            d_b1[:, m] += vectors[:, j].unsqueeze(-1) * d_reader
            d_vectors[:, j] += (d_reader @ b1[:, m].mT).squeeze(1)
        d_z = d_hidden * silu_slope(asked.z)
        d_b2[:, m] += d_z.mT @ source
        if m == 1:
            d_v_in = d_v_in + d_z @ b2[:, m]
        else:
            d_x = d_x + d_z @ b2[:, m]
    return d_x, d_v_in, adjoint.readout_gradients(d_vectors, d.logits), (d_b1, d_b2)


def _curvature(z: Tensor) -> Tensor:
    """Return the second derivative of SiLU."""
    gate = torch.sigmoid(z)
    return gate * (1 - gate) * (2 + z * (1 - 2 * gate))
