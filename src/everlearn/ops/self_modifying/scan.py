"""The loop over pieces: what runs along the sequence, by autograd or with a backward pass written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from everlearn.ops.self_modifying.layout import Piece
from everlearn.ops.self_modifying.matrix import MatrixKernel
from everlearn.ops.self_modifying.mlp import MLPKernel
from everlearn.ops.self_modifying.piece import Tokens, step
from everlearn.ops.self_modifying.rule import MAIN, Readouts, SelfModifyingRule, Weights


class Kernel(Protocol):
    """One rule for one architecture, forward and backward by hand."""

    @staticmethod
    def serves(weights: Weights, momentum: Weights, anchor: Weights | None, rule: SelfModifyingRule) -> bool:
        """Tell whether these memories and this rule are what it computes."""
        ...

    @staticmethod
    def forward(tokens: Tokens, readouts: Readouts, weights: Weights, boundary: Weights) -> tuple[Tensor, Weights, Any]:
        """Return y, the weights after the piece, and what the backward pass needs of it."""
        ...

    @staticmethod
    def one_token(tokens: Tokens, readouts: Readouts, weights: Weights, boundary: Weights) -> tuple[Tensor, Weights]:
        """Return y and the weights after pieces of one token, for decoding: no gradient is asked for."""
        ...

    @staticmethod
    def backward(
        tokens: Tokens, readouts: Readouts, weights: Weights, boundary: Weights, t: Any, d_y: Tensor, d_after: Weights
    ) -> tuple[Tensor, Tensor, Tensor, Readouts, Weights, Weights]:
        """Return the gradients by q, k_in, v_in, the readouts, the weights and the boundary."""
        ...


KERNELS: tuple[type[Kernel], ...] = (MatrixKernel, MLPKernel)


class Plan(NamedTuple):
    """What a scan needs beside tensors."""

    pieces: Sequence[Piece]
    rule: SelfModifyingRule
    kernel: type[Kernel]


def scan(
    tokens: Tokens,
    readouts: Readouts,
    weights: Weights,
    boundary: Weights,
    momentum: Weights,
    anchor: Weights | None,
    pieces: Sequence[Piece],
    rule: SelfModifyingRule,
) -> tuple[Tensor, Weights, Weights, Weights]:
    """Run piece after piece; arguments are those of `piece.step`, over a whole grid.

    Returns:
        y: [G, L, D].
        weights: after the last token.
        boundary: of each memory's last chunk.
        momentum: after the last token.
    """
    kernel = next((k for k in KERNELS if k.serves(weights, momentum, anchor, rule)), None)
    if kernel is None:
        return differentiable(tokens, readouts, weights, boundary, momentum, anchor, pieces, rule)
    leaves = (*tokens[:3], *readouts, *weights, *boundary)
    if not (torch.is_grad_enabled() and any(x.requires_grad for x in leaves)):
        if tokens.q.shape[1] == 1:
            y, weights = kernel.one_token(tokens, readouts, weights, boundary)
            return y, weights, renew(boundary, weights, pieces[0]), ()
        y, weights, boundary, _ = _run(kernel, tokens, readouts, weights, boundary, pieces)
        return y, weights, boundary, ()
    count = len(weights)
    y, *ends = _ByHand.apply(Plan(pieces, rule, kernel), tokens.live, *leaves)
    after = tuple(ends[:count])
    # a chunk that ended with the last token leaves one state, not two equal ones
    last = after if _all_end(pieces[-1]) else tuple(ends[count:])
    return y, after, last, ()


def differentiable(
    tokens: Tokens,
    readouts: Readouts,
    weights: Weights,
    boundary: Weights,
    momentum: Weights,
    anchor: Weights | None,
    pieces: Sequence[Piece],
    rule: SelfModifyingRule,
) -> tuple[Tensor, Weights, Weights, Weights]:
    """Run piece after piece in closed form, for every option, with autograd for the outer gradient; see `scan`."""
    y = []
    for piece in pieces:
        part = tokens.piece(piece.start, piece.stop)
        read, weights, momentum = step(part, readouts, weights, boundary, momentum, anchor, rule)
        y.append(read)
        boundary = renew(boundary, weights, piece)
    return torch.cat(y, 1), weights, boundary, momentum


def _run(
    kernel: type[Kernel],
    tokens: Tokens,
    readouts: Readouts,
    weights: Weights,
    boundary: Weights,
    pieces: Sequence[Piece],
) -> tuple[Tensor, Weights, Weights, list[tuple[Weights, Weights]]]:
    """Run a kernel over all pieces; return also the weights and the boundary before each."""
    y, states = [], []
    for piece in pieces:
        states.append((weights, boundary))
        read, weights, _ = kernel.forward(tokens.piece(piece.start, piece.stop), readouts, weights, boundary)
        y.append(read)
        boundary = renew(boundary, weights, piece)
    return torch.cat(y, 1), weights, boundary, states


class _ByHand(torch.autograd.Function):
    """A scan that keeps the states between pieces and computes the rest again when gradients are asked for."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, live: Tensor | None, *leaves: Tensor) -> tuple[Tensor, ...]:
        """Return y, then the weights, then the boundary."""
        tokens, readouts, weights, boundary = _unpack(live, leaves)
        y, after, last, states = _run(plan.kernel, tokens, readouts, weights, boundary, plan.pieces)
        ctx.plan, ctx.leaves = plan, len(leaves)
        ctx.save_for_backward(live, *leaves, *(x for state in states[1:] for part in state for x in part))
        # outputs must be tensors of their own; a boundary that is the weights is not used
        kept = (x.new_empty(0) for x in last) if _all_end(plan.pieces[-1]) else (x.clone() for x in last)
        return y, *after, *kept

    @staticmethod
    def backward(ctx: Any, d_y: Tensor, *d_ends: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by the leaves; differentiable by way of `differentiable` where that is asked for."""
        live, *saved = ctx.saved_tensors
        leaves, later = tuple(saved[: ctx.leaves]), saved[ctx.leaves :]
        count = len(d_ends) // 2
        d_weights, d_boundary = d_ends[:count], d_ends[count:]
        if torch.is_grad_enabled():
            return None, None, *_again(ctx.plan, live, leaves, (d_y, *d_weights, *d_boundary))
        starts = range(0, len(later), 2 * count)
        states = [(tuple(later[i : i + count]), tuple(later[i + count : i + 2 * count])) for i in starts]
        return None, None, *_backward(ctx.plan, states, live, leaves, d_y, d_weights, d_boundary)


def _backward(
    plan: Plan,
    states: list[tuple[Weights, Weights]],
    live: Tensor | None,
    leaves: tuple[Tensor, ...],
    d_y: Tensor,
    d_weights: Weights,
    d_boundary: Weights,
) -> tuple[Tensor, ...]:
    """Run the pieces backward, each from the state before it."""
    tokens, readouts, weights, boundary = _unpack(live, leaves)
    d_tokens: list[tuple[Tensor, ...]] = []
    d_readouts = tuple(torch.zeros_like(x) for x in readouts)
    if _all_end(plan.pieces[-1]):
        d_boundary = tuple(torch.zeros_like(w) for w in d_weights)
    for piece, (now, then) in zip(reversed(plan.pieces), reversed([(weights, boundary), *states]), strict=True):
        d_weights, d_boundary = _renew_backward(d_weights, d_boundary, piece)
        part = tokens.piece(piece.start, piece.stop)
        _, _, trace = plan.kernel.forward(part, readouts, now, then)
        d_part = d_y[:, piece.start : piece.stop]
        *d_own, d_read, d_weights, d_then = plan.kernel.backward(part, readouts, now, then, trace, d_part, d_weights)
        d_tokens.append(tuple(d_own))
        d_readouts = tuple(a + b for a, b in zip(d_readouts, d_read, strict=True))
        d_boundary = tuple(a + b for a, b in zip(d_boundary, d_then, strict=True))
    d_inputs = (torch.cat(parts[::-1], 1) for parts in zip(*d_tokens, strict=True))
    return (*d_inputs, *d_readouts, *d_weights, *d_boundary)


def _again(
    plan: Plan, live: Tensor | None, leaves: tuple[Tensor, ...], d_outputs: tuple[Tensor, ...]
) -> tuple[Tensor | None, ...]:
    """Return the gradients as a graph, for derivatives of second order."""
    tokens, readouts, weights, boundary = _unpack(live, leaves)
    y, after, last, _ = differentiable(tokens, readouts, weights, boundary, (), None, plan.pieces, plan.rule)
    outputs = (y, *after) if _all_end(plan.pieces[-1]) else (y, *after, *last)
    wanted = [i for i, leaf in enumerate(leaves) if leaf.requires_grad]
    asked = [(out, d) for out, d in zip(outputs, d_outputs, strict=False) if out.requires_grad]
    grads = torch.autograd.grad(
        [out for out, _ in asked],
        [leaves[i] for i in wanted],
        [d for _, d in asked],
        create_graph=True,
        allow_unused=True,
    )
    found: list[Tensor | None] = [None] * len(leaves)
    for i, grad in zip(wanted, grads, strict=True):
        found[i] = grad
    return tuple(found)


def _unpack(live: Tensor | None, leaves: Sequence[Tensor]) -> tuple[Tokens, Readouts, Weights, Weights]:
    """Undo the flat order of a function's arguments."""
    q, k_in, v_in, eta, eta_bias, alpha, alpha_bias, *states = leaves
    count = len(states) // 2
    readouts = Readouts(eta, eta_bias, alpha, alpha_bias)
    return Tokens(q, k_in, v_in, live), readouts, tuple(states[:count]), tuple(states[count:])


def _all_end(piece: Piece) -> bool:
    """Tell whether every memory of every group ends a chunk with the piece."""
    return piece.main_ends is True and piece.others_end is True


def renew(boundary: Weights, weights: Weights, piece: Piece) -> Weights:
    """Return the boundary after a piece: the weights by now, for the memories and groups whose chunk ends."""
    if _all_end(piece):
        return weights
    if piece.main_ends is False and piece.others_end is False:
        return boundary
    ends = _ending(piece, weights[0])
    return tuple(torch.where(ends, w, b) for w, b in zip(weights, boundary, strict=True))


def _renew_backward(d_weights: Weights, d_boundary: Weights, piece: Piece) -> tuple[Weights, Weights]:
    """Return the gradients by the weights after the piece and by the boundary before it; see `renew`."""
    if piece.main_ends is False and piece.others_end is False:
        return d_weights, d_boundary
    ends = _ending(piece, d_weights[0])
    moved = tuple(w + torch.where(ends, b, 0) for w, b in zip(d_weights, d_boundary, strict=True))
    return moved, tuple(torch.where(ends, 0, b) for b in d_boundary)


def _ending(piece: Piece, like: Tensor) -> Tensor:
    """Return which memories of which groups end a chunk, [G or 1, M, 1, 1] bool."""
    main, others = (
        torch.as_tensor(flag, device=like.device).reshape(-1, 1) for flag in (piece.main_ends, piece.others_end)
    )
    is_main = torch.arange(like.shape[1], device=like.device) == MAIN
    return torch.where(is_main, main, others)[:, :, None, None]
