"""Self-modifying Titans in chunks: no autograd inside, no loop over tokens. The README derives it."""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.ops.precision import full_precision
from everlearn.ops.self_modifying.layout import lay_out
from everlearn.ops.self_modifying.piece import Tokens
from everlearn.ops.self_modifying.rule import MEMORIES, Readouts, SelfModifyingRule, SelfModifyingState, Weights
from everlearn.ops.self_modifying.scan import scan


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

        k = unit(M_k(x)),  v = unit(M_v(x)),  alpha and eta from M_alpha(x) and M_eta(x)
        y = M_main(q)                                              before the token's own write
        W <- W (alpha I - eta u u^T) - eta dL(M(k), v^)/dW         for every memory M, with v^ = unit(M(v))

    M(x) = x + S x, or x + W1 silu(W2 x); u is the input of the weight W. What generates, and what the gradient is
    taken at, is the memory at the end of its previous chunk, so that a chunk is one linear recurrence. Equal to
    `naive.py`, values and gradients, at a small fraction of its time. A call may end within a chunk: the state holds
    both the boundary and the weights by now, so the results do not depend on how a stream is cut into calls.

    Args:
        q: queries, [B, T, H, D], unit norm; with six memories the input of the one that generates them.
        k_in: x of the keys and of both gates, [B, T, H, D].
        v_in: x of the values, [B, T, H, D]; the paper gives both the same x.
        readouts: what makes the gates' numbers of the answers; eta lies in (0, 1 + alpha).
        state: what earlier tokens left, or `fresh_state`.
        rule: chunk sizes, objective, and the other choices.
        anchor: what the weights decay to, [H, M, out, in] each, such as the learned start; None is zero.
        mask: [B, T] bool, True for a real token, real tokens first; None means all are.
    Returns:
        y: [B, T, H, D], in the dtype of q; arbitrary but finite at padding.
        state: in float32 or wider; the argument is left untouched.
    Raises:
        ValueError: shapes that do not fit each other.
    Example:
        >>> from everlearn.ops.self_modifying import fresh_state
        >>> init, none = torch.zeros(1, 5, 2, 2), torch.zeros(1, 2)
        >>> readouts = Readouts(none, torch.zeros(1), none, torch.full((1,), 9.0))  # eta 1, alpha nearly 1
        >>> k, v = torch.tensor([[0.6, 0.8], [0.0, 1.0]])[:, None, None, None].expand(2, 1, 2, 1, 2)
        >>> rule = SelfModifyingRule(chunk_size=4)
        >>> y, _ = self_modifying(k, k, v, readouts, fresh_state((init,), 1, rule), rule=rule)
        >>> [round(x, 2) for x in (y - k)[0, 1, 0].tolist()]  # the second token reads what the first one stored
        [0.0, 1.0]
    """
    _check(q, k_in, v_in, readouts, state, rule, anchor, mask)
    if q.shape[1] == 0:
        return torch.zeros_like(q), state
    rows, _, heads, _ = q.shape
    dtype = torch.promote_types(torch.promote_types(q.dtype, state.weights[0].dtype), torch.float32)
    # sums over a chunk, solves and memories need float32 whatever the network runs in
    with full_precision(q):
        layout = lay_out(state.filled, q.shape[1], mask, rule)
        queries, keys, values = (layout.groups(x.to(dtype)) for x in (q, k_in, v_in))
        tokens = Tokens(queries, keys, values, layout.live(heads, dtype))
        gates = Readouts(*(x.to(dtype).expand(rows, *x.shape).flatten(0, 1) for x in readouts))
        weights, boundary, momentum = (
            tuple(w.to(dtype).flatten(0, 1) for w in part) for part in (state.weights, state.boundary, state.momentum)
        )
        if state.boundary[0] is state.weights[0]:
            boundary = weights
        held = None if anchor is None else tuple(w.to(dtype).expand(rows, *w.shape).flatten(0, 1) for w in anchor)
        y, *ends = scan(tokens, gates, weights, boundary, momentum, held, layout.pieces(heads), rule)
    done = [tuple(w.unflatten(0, (rows, heads)) for w in part) for part in ends]
    if done[1] and ends[1][0] is ends[0][0]:
        done[1] = done[0]
    return layout.rows(y, heads).to(q.dtype), SelfModifyingState(done[0], done[1], done[2], layout.filled)


def _check(
    q: Tensor,
    k_in: Tensor,
    v_in: Tensor,
    readouts: Readouts,
    state: SelfModifyingState,
    rule: SelfModifyingRule,
    anchor: Weights | None,
    mask: Tensor | None,
) -> None:
    """Raise one clear line for whatever does not fit the queries and the memories."""
    if q.ndim != 4:
        raise ValueError(f"q has shape {tuple(q.shape)}; give [B, T, H, D], with one head as [B, T, 1, D]")
    rows, length, heads, dim = q.shape
    if len(state.weights) not in (1, 2) or state.weights[0].ndim != 5:
        raise ValueError(
            f"the state holds {len(state.weights)} weights, the first with {state.weights[0].ndim} dimensions; give "
            "(S,) or (W1, W2), each [B, H, M, out, in], as fresh_state does"
        )
    count, hidden = state.weights[0].shape[2], state.weights[0].shape[-1]
    if count not in (len(MEMORIES) - 1, len(MEMORIES)):
        raise ValueError(f"there are {count} memories; give 5 of {', '.join(MEMORIES[:-1])}, or 6 with q")
    own = ((dim, hidden), (hidden, dim)) if len(state.weights) == 2 else ((dim, dim),)
    shapes: list[tuple[str, Tensor, tuple[int, ...]]] = [("k_in", k_in, (rows, length, heads, dim))]
    shapes += [("v_in", v_in, (rows, length, heads, dim))]
    for name, part in (("weights", state.weights), ("boundary", state.boundary), ("momentum", state.momentum)):
        wanted = own if name != "momentum" or rule.beta else ()
        if len(part) != len(wanted):
            raise ValueError(
                f"the state has {len(part)} tensors of {name}, the rule with beta={rule.beta} needs {len(wanted)}; "
                "start from fresh_state with this rule"
            )
        shapes += [(f"the state's {name}", w, (rows, heads, count, *s)) for w, s in zip(part, wanted, strict=True)]
    shapes += [("anchor", w, (heads, count, *s)) for w, s in zip(anchor or (), own, strict=False)]
    shapes += [("the state's filled", state.filled, (rows,))]
    shapes += [
        (f"readouts.{name}", x, (heads, dim) if x.ndim > 1 else (heads,))
        for name, x in zip(Readouts._fields, readouts, strict=True)
    ]
    shapes += [] if mask is None else [("mask", mask, (rows, length))]
    for name, tensor, expected in shapes:
        if tuple(tensor.shape) != expected:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, but queries {tuple(q.shape)} and {count} memories need "
                f"{expected}; reshape it"
            )
