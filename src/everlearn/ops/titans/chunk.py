"""The Titans memory chunk by chunk: no loop over tokens, no autograd inside. The README has the derivation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from everlearn.ops.blocks import decay
from everlearn.ops.precision import full_precision
from everlearn.ops.titans.layout import Layout, check, check_state, place, take

Weights = tuple[Tensor, ...]


class TitansState(NamedTuple):
    """What the tokens of each row have left, also in the middle of a chunk.

    Args:
        weights: the memory M_t, matrix by matrix, [B, H, out, in].
        anchor: the memory as it was when the open chunk began, where its gradients are taken; like `weights`.
        momentum: S_t, like `weights`; empty without momentum.
        filled: tokens of the open chunk so far, [B] int64, below the chunk_size.
    """

    weights: Weights
    anchor: Weights
    momentum: Weights
    filled: Tensor


def titans(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    log_alpha: Tensor,
    log_beta: Tensor | None,
    start: Sequence[Tensor],
    state: TitansState | None = None,
    *,
    chunk_size: int,
    residual: bool = False,
    to_start: bool = False,
    max_norm: float | None = None,
    mask: Tensor | None = None,
    read_after_write: bool = True,
    crosses: bool = True,
) -> tuple[Tensor, Tensor, TitansState]:
    """Write each token into a neural memory by gradient descent with momentum and retention, and read it.

        u_t = grad of |M(k_t) - v_t|^2 / 2 at the memory as it was when the token's chunk began
        S_t = beta_t S_{t-1} - eta_t u_t            [Titans eq. 9-10, 14]; without momentum [Titans eq. 8]
        M_t = alpha_t M_{t-1} + S_t                 [Titans eq. 13, 16]
        y_t = M_t(q_t), or M_{t-1}(q_t)             [Titans eq. 15]

    The memory is a matrix, M(x) = W x, or an MLP without biases, M(x) = W_L silu(... silu(W_1 x)). Since all gradients
    of a chunk are taken at one place, a chunk is a few products of matrices [Titans eq. 16-18]; equal to `naive.py`,
    values and gradients, at a small fraction of its time. The paper writes theta_t for our eta_t, eta_t for beta_t and
    1 - alpha_t for alpha_t. It differs from `ops.delta_rule` by the momentum, by memories deeper than a matrix, and by
    gradients that do not see the tokens of their own chunk: keys that come again within a chunk are written as often,
    so the memory stays bounded only where the steps of a chunk add up to about 1 (unit keys), or with `max_norm`.

    Args:
        q: queries, [B, T, H, D].
        k: keys, [B, T, H, D].
        v: values, [B, T, H, Dv].
        eta: step sizes, [B, T, H], >= 0.
        log_alpha: logarithms of the retention gate, [B, T, H], <= 0 and finite; 0 keeps everything.
        log_beta: logarithms of the momentum's decay, [B, T, H], <= 0 and finite; None is no momentum.
        start: M_0, the matrices in order of application, [H, out, in] each; one is a matrix memory.
        state: what earlier tokens left; None begins at `start`.
        chunk_size: tokens that share one gradient anchor; changes results. 1 takes every gradient where the token is.
        residual: M(x) = x + ..., which needs Dv = D.
        to_start: let the retention gate pull toward `start`, not toward zero: M_t = alpha M + (1 - alpha) M_0 + S_t.
        max_norm: longest gradient of one token, all matrices and one head together; longer ones are shortened to it.
        mask: [B, T] bool, True for a real token, real tokens first; None means all are.
        read_after_write: read M_t when True, M_{t-1} when False.
        crosses: False promises that the tokens end no later than the open chunk of every row, which saves time.
    Returns:
        y: [B, T, H, Dv], in the dtype of v; arbitrary but finite at padding.
        surprise: Frobenius norm of u_t before it is shortened, [B, T, H], float32 or wider, without a graph.
        state: to pass to the next call, in float32 or wider; the argument is left untouched.
    Raises:
        ValueError: shapes that do not fit each other, or a chunk_size or max_norm that is not above zero.
    Example:
        >>> key, value = torch.tensor([[0.6, 0.8]]), torch.tensor([[2.0, -1.0]])
        >>> step, keep = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
        >>> k, v = key.reshape(1, 1, 1, 2), value.reshape(1, 1, 1, 2)
        >>> y, surprise, state = titans(k, k, v, step, keep, None, [torch.zeros(1, 2, 2)], chunk_size=4)
        >>> y.flatten(), round(surprise.item(), 3), state.filled
        (tensor([ 2., -1.]), 2.236, tensor([1]))
    """
    scalars = {"eta": eta, "log_alpha": log_alpha, "log_beta": log_beta}
    check(q, k, v, scalars, start, mask, chunk_size, residual, max_norm)
    rows, length, heads, _ = k.shape
    dtype = torch.promote_types(torch.promote_types(k.dtype, v.dtype), torch.float32)
    # the sums over a chunk and the memory need float32 whatever the network runs in
    with full_precision(k):
        first = tuple(w.to(dtype).expand(rows, *w.shape) for w in start)
        old = _begin(first, state, log_beta is not None)
        if length == 0:
            return torch.zeros_like(v), torch.zeros_like(eta, dtype=dtype), old
        layout = Layout.of(length, chunk_size, old.filled, mask, fresh=state is None, crosses=crosses)
        queries, keys, values, sizes, kept = (place(x.to(dtype), layout) for x in (q, k, v, eta, log_alpha))
        slow = None if log_beta is None else place(log_beta.to(dtype), layout)
        shares = _shares(kept, slow, place(torch.ones_like(eta, dtype=dtype), layout))
        rule = _Rule(_flat(first) if to_start else None, residual, max_norm, chunk_size)
        tape, new = _write(keys, values, sizes, shares, old, layout, rule)
        y = _read(queries, shares, tape, rule, slice(1, None) if read_after_write else slice(None, -1))
        surprise = take(tape.square.detach().sqrt(), layout, rows, heads).squeeze(-1)
    return take(y, layout, rows, heads).to(v.dtype), surprise, new


def recall(weights: Sequence[Tensor], q: Tensor, *, residual: bool = False) -> Tensor:
    """Ask a memory as it is; nothing is written.  [Titans eq. 15]

    Args:
        weights: the matrices in order of application, [B, H, out, in], such as `state.weights` or `state.anchor`.
        q: queries, [B, T, H, D].
        residual: as of `titans`.
    Returns:
        [B, T, H, Dv], in the dtype of q.
    """
    with full_precision(q):
        x = q.transpose(1, 2).to(weights[0].dtype)
        hidden = x
        for depth, weight in enumerate(weights):
            hidden = (hidden if depth == 0 else F.silu(hidden)) @ weight.mT
        return (x + hidden if residual else hidden).transpose(1, 2).to(q.dtype)


class _Rule(NamedTuple):
    """What the memory is and how it steps: the options of `titans`."""

    pull: Weights | None  # what retention pulls toward, [B*H, out, in]; None is zero
    residual: bool
    max_norm: float | None
    chunk_size: int


class _Shares(NamedTuple):
    """What the memory consists of after each token of a chunk, and in row 0 before the first; [B*H*N, C + 1, ...]."""

    kept: Tensor  # the share of M_0, the memory at the chunk's start, [.., C + 1, 1]
    written: Tensor  # the share of each token's step, [.., C + 1, C]
    pushed: Tensor | None  # the share of S_0, [.., C + 1, 1]
    moved: Tensor | None  # the shares of S_0 and of each step in S_C, [.., C + 1, 1]

    def chunk(self, n: int, groups: int) -> _Shares:
        """Return those of one chunk, [B*H, C + 1, ...]."""
        pushed = None if self.pushed is None else _pick(self.pushed, n, groups)
        moved = None if self.moved is None else _pick(self.moved, n, groups)
        return _Shares(_pick(self.kept, n, groups), _pick(self.written, n, groups), pushed, moved)


class _Tape(NamedTuple):
    """What the recurrence leaves to be read, matrix by matrix, all chunks at once, [B*H*N, ...]."""

    weights: Weights  # at the chunk's start
    momentum: Weights
    inputs: Weights  # what the matrix was multiplied with, [.., C, in]
    steps: Weights  # step size times the error at its output, [.., C, out]
    square: Tensor  # of the gradient's norm, [.., C, 1]


def _shares(log_alpha: Tensor, log_beta: Tensor | None, real: Tensor) -> _Shares:
    """Multiply the gates along each chunk.  [Titans eq. 18]"""
    kept = decay(log_alpha)
    if log_beta is None:
        return _Shares(kept[:, :, :1], kept[:, :, 1:], None, None)
    slow = decay(log_beta)
    # S_j joins the memory at every real token j, and from there on fades with it
    both = (kept[:, :, 1:] * real.mT) @ slow[:, 1:]
    return _Shares(kept[:, :, :1], both[:, :, 1:], both[:, :, :1], slow[:, -1, :, None])


def _write(
    k: Tensor, v: Tensor, eta: Tensor, shares: _Shares, old: TitansState, layout: Layout, rule: _Rule
) -> tuple[_Tape, TitansState]:
    """Run chunk after chunk through the memory: the only loop along the sequence.  [Titans eq. 16-18]"""
    rows, heads = old.weights[0].shape[:2]
    weights, anchor, momentum = _flat(old.weights), _flat(old.anchor), _flat(old.momentum)
    written: list[tuple[Weights, ...]] = []
    squares = []
    for n in range(layout.count):
        key, value, size = (_pick(x, n, rows * heads) for x in (k, v, eta))
        inputs, errors = _errors(anchor, key, value, rule.residual)
        square = _square(inputs, errors)
        steps = tuple(_shortened(size, square, rule.max_norm) * error for error in errors)
        written.append((weights, momentum, inputs, steps))
        squares.append(square)
        weights, momentum = _step(weights, momentum, inputs, steps, shares.chunk(n, rows * heads), rule.pull)
        closed = (layout.total >= (n + 1) * rule.chunk_size).repeat_interleave(heads)[:, None, None]
        anchor = tuple(torch.where(closed, new, was) for new, was in zip(weights, anchor, strict=True))
    starts, slopes, given, steps = map(_by_matrix, zip(*written, strict=True))
    tape = _Tape(starts, slopes, given, steps, torch.stack(squares, 1).flatten(0, 1))
    weights, anchor, momentum = (
        tuple(w.unflatten(0, (rows, heads)) for w in part) for part in (weights, anchor, momentum)
    )
    return tape, TitansState(weights, anchor, momentum, layout.total % rule.chunk_size)


def _errors(weights: Weights, key: Tensor, value: Tensor, residual: bool) -> tuple[Weights, Weights]:
    """Return what each matrix is given for a key and the error at its output: a gradient is error^T input.

    Back-propagation of |M(k) - v|^2 / 2, written out.  [Titans eq. 12]
    """
    inputs, slopes = [key], []
    for weight in weights[:-1]:
        z = inputs[-1] @ weight.mT
        gate = torch.sigmoid(z)
        inputs.append(z * gate)
        slopes.append(gate * (1 + z * (1 - gate)))
    answer = inputs[-1] @ weights[-1].mT
    errors = [(key + answer if residual else answer) - value]
    for weight, slope in zip(reversed(weights[1:]), reversed(slopes), strict=True):
        errors.append((errors[-1] @ weight) * slope)
    return tuple(inputs), tuple(reversed(errors))


def _square(inputs: Weights, errors: Weights) -> Tensor:
    """Return the squared norm of each token's gradient, [.., C, 1]: outer products have the product of the norms."""
    squares = [
        u.square().sum(-1, keepdim=True) * e.square().sum(-1, keepdim=True) for u, e in zip(inputs, errors, strict=True)
    ]
    return torch.stack(squares).sum(0)


def _shortened(eta: Tensor, square: Tensor, max_norm: float | None) -> Tensor:
    """Return the step size, less where the gradient is longer than max_norm."""
    if max_norm is None:
        return eta
    long = square > max_norm**2
    # a root is taken only where it is needed: at a surprise of zero its derivative is infinite
    return torch.where(long, eta * max_norm * torch.where(long, square, 1).rsqrt(), eta)


def _step(
    weights: Weights, momentum: Weights, inputs: Weights, steps: Weights, shares: _Shares, pull: Weights | None
) -> tuple[Weights, Weights]:
    """Return the memory and the momentum at the end of a chunk, whose shares are given.  [Titans eq. 13-14, 16]"""
    kept, written = shares.kept[:, -1:], shares.written[:, -1:].mT
    new = [
        torch.baddbmm(kept * w, (written * step).mT, u, alpha=-1)
        for w, step, u in zip(weights, steps, inputs, strict=True)
    ]
    if pull is not None:
        new = [w + (1 - kept) * p for w, p in zip(new, pull, strict=True)]
    if shares.pushed is None or shares.moved is None:
        return tuple(new), ()
    moved, pushed = shares.moved, shares.pushed[:, -1:]
    new = [w + pushed * s for w, s in zip(new, momentum, strict=True)]
    slopes = [
        torch.baddbmm(moved[:, :1] * s, (moved[:, 1:] * step).mT, u, alpha=-1)
        for s, step, u in zip(momentum, steps, inputs, strict=True)
    ]
    return tuple(new), tuple(slopes)


def _read(q: Tensor, shares: _Shares, tape: _Tape, rule: _Rule, rows: slice) -> Tensor:
    """Answer all queries at once, each from the memory of its own token.  [Titans eq. 15]"""
    hidden = q
    for depth, weight in enumerate(tape.weights):
        x = hidden if depth == 0 else F.silu(hidden)
        seen = (x @ tape.inputs[depth].mT) * shares.written[:, rows]
        hidden = torch.baddbmm(shares.kept[:, rows] * (x @ weight.mT), seen, tape.steps[depth], alpha=-1)
        if shares.pushed is not None:
            hidden = hidden + shares.pushed[:, rows] * (x @ tape.momentum[depth].mT)
        if rule.pull is not None:
            pull = rule.pull[depth].repeat_interleave(len(q) // len(rule.pull[depth]), 0)
            hidden = hidden + (1 - shares.kept[:, rows]) * (x @ pull.mT)
    return q + hidden if rule.residual else hidden


def _begin(first: Weights, state: TitansState | None, momentum: bool) -> TitansState:
    """Return the state in the type of the start, checked; a fresh one where there is none."""
    rows = len(first[0])
    if state is None:
        slopes = tuple(torch.zeros_like(w) for w in first) if momentum else ()
        return TitansState(first, first, slopes, torch.zeros(rows, dtype=torch.long, device=first[0].device))
    check_state(state[:3] if momentum else state[:2], state.filled, [tuple(w.shape) for w in first])
    weights, anchor, slopes = (
        tuple(w.to(first[0].dtype) for w in part)
        for part in (state.weights, state.anchor, state.momentum if momentum else ())
    )
    return TitansState(weights, anchor, slopes, state.filled)


def _flat(weights: Weights) -> Weights:
    """Put rows and heads into one dimension, [B*H, out, in]."""
    return tuple(w.flatten(0, 1) for w in weights)


def _pick(x: Tensor, n: int, groups: int) -> Tensor:
    """Return chunk n of [B*H*N, ...], [B*H, ...]."""
    return x.unflatten(0, (groups, -1))[:, n]


def _by_matrix(chunks: Sequence[Weights]) -> Weights:
    """Join what belongs to one matrix in all chunks, [B*H, ...] each, into [B*H*N, ...]."""
    return tuple(torch.stack(matrix, 1).flatten(0, 1) for matrix in zip(*chunks, strict=True))
