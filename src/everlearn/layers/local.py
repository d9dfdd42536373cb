"""A local objective: the levels learn a mapping of their own inside the forward pass, without the task's gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from everlearn.layers.continuum import ContinuumMemory
from everlearn.layers.inputs import check_input
from everlearn.memory.state import LayerState

Objective = Callable[[Tensor, Tensor], Tensor]


def associate(
    memory: ContinuumMemory,
    x: Tensor,
    values: Tensor,
    objective: Objective,
    state: LayerState | None = None,
    mask: Tensor | None = None,
    *,
    second_order: bool = False,
) -> tuple[Tensor, LayerState]:
    """Read each token, then write it as a pair of the associative memory x -> values.  [NL eq. 6, 71]

        min over theta of sum_t objective(memory(x_t; theta), values_t)

    A token is read with what the tokens before it have taught, up to the last update of each level; so pieces end where
    a level of some row is due, and any split of the tokens gives the same result. The task's gradient needs the whole
    model and an extra backward pass (`learn.learn_chunk`); this needs neither, and learns what `values` says instead
    of what the task needs. In a language model it was measured to gain nothing over the task's gradient: it is an
    option for networks in which no task loss is at hand.

    Args:
        memory: its levels count the tokens that are written here.
        x: keys and queries at once, [B, T, dim].
        values: what should be read at x, [B, T, ...], as the objective takes it.
        objective: (prediction [B, n, dim], values [B, n, ...]) -> loss of each token, [B, n].
        state: what the streams have taught; None starts from the learned parameters.
        mask: [B, T] bool, each row's real tokens first; the others are written nowhere.
        second_order: let an outer gradient run through the inner ones as well, into x and values too.
    Returns:
        y: [B, T, dim], read before the write of the same token; arbitrary but finite at padding.
        state: to pass to the next call. Without autograd, both are cut from any graph.
    Raises:
        ValueError: shapes, a dtype or a state that does not fit, an objective that does not give [B, n] or does not
            depend on the prediction, or a gradient that is not finite.
    Example:
        >>> from everlearn.layers import CMS
        >>> from everlearn.levels import Level
        >>> memory, x = CMS(4, 8, [Level("fast", 2, eta=0.1)], chunk_size=2), torch.randn(1, 6, 4)
        >>> y, state = associate(memory, x, x.roll(1, -1), lambda y, v: (y - v).square().sum(-1))
        >>> y.shape, state.memory["fast.tokens"].tolist()
        (torch.Size([1, 6, 4]), [0])
    """
    check_input(x, memory.dim, mask, state)
    if values.shape[:2] != x.shape[:2]:
        raise ValueError(
            f"values have shape {tuple(values.shape)}, x has {tuple(x.shape)}; give one value for each token, "
            "[B, T, ...]"
        )
    state = state if state and state.memory else memory.initial_state(len(x))
    memory.weights(state)  # refuses the state of another memory
    real = torch.full((len(x),), x.shape[1], device=x.device) if mask is None else mask.sum(1)
    if mask is not None:
        # the gradient of what is not counted must be zero, whatever stands there
        values = values.masked_fill(~mask.reshape(*mask.shape, *[1] * (values.ndim - 2)), 0)
        x = x.masked_fill(~mask.unsqueeze(-1), 0)
    pieces, start = [x[:, :0]], 0
    while start < x.shape[1]:
        stop = min(start + _until_due(memory, state, real > start), x.shape[1])
        piece, target, count = x[:, start:stop], values[:, start:stop], (real - start).clamp(0, stop - start)
        y, state = _piece(memory, piece, target, objective, state, count, second_order)
        pieces.append(y)
        start = stop
    return torch.cat(pieces, 1), state


def _until_due(memory: ContinuumMemory, state: LayerState, active: Tensor) -> int:
    """Return after how many tokens the first level of an active row is due; a large number when none will be."""
    never = torch.iinfo(torch.long).max
    left = [never]
    for level in memory.learning_levels:
        if not isinstance(level.update_period, str) and bool(active.any()):
            left.append(int((level.update_period - state.memory[f"{level.name}.tokens"][active]).min()))
    return max(1, min(left))


def _piece(
    memory: ContinuumMemory,
    x: Tensor,
    values: Tensor,
    objective: Objective,
    state: LayerState,
    count: Tensor,
    second_order: bool,
) -> tuple[Tensor, LayerState]:
    """Read and write tokens that share one set of weights; the first `count` of each row are real."""
    outer = torch.is_grad_enabled()
    with torch.enable_grad():
        tracked = memory.track(state, len(x))
        y, _ = memory(x, tracked)
        weights = list(memory.weights(tracked).values())
        if not weights:
            return (y if outer else y.detach()), state
        loss = objective(y, values)
        if not isinstance(loss, Tensor) or loss.shape != x.shape[:2]:
            given = tuple(loss.shape) if isinstance(loss, Tensor) else loss
            raise ValueError(
                f"the objective gives {given} for {tuple(x.shape[:2])} tokens; return one loss for each "
                "token, [B, n], such as ((prediction - value) ** 2).sum(-1)"
            )
        real = torch.arange(x.shape[1], device=x.device) < count[:, None]
        mean = torch.where(real, loss, 0.0).sum(1) / count.clamp_min(1)
        grads: tuple[Tensor, ...] = ()
        if loss.requires_grad:
            order = outer and second_order
            grads = torch.autograd.grad(mean.sum(), weights, retain_graph=outer, create_graph=order, allow_unused=True)
    if not grads or any(grad is None for grad in grads):
        raise ValueError(
            "the objective's loss does not depend on the prediction, so it has no gradient; compute it from the first "
            "argument in torch, without detach, item or numpy"
        )
    if not all(bool(torch.isfinite(grad).all()) for grad in grads):
        raise ValueError("a gradient of the objective is not finite; nothing was written; look for NaN in x and values")
    written, _ = memory.write(memory.accumulate(tracked, grads, count))
    if outer:
        return y, written
    return y.detach(), LayerState({name: t.detach() for name, t in written.memory.items()}, written.context)
