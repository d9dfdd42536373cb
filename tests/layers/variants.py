"""Small memories of every kind, and the chunk that their tests learn from."""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.layers import CMS, IndependentCMS, NestedCMS
from everlearn.layers.continuum import ContinuumMemory
from everlearn.layers.level_step import Update
from everlearn.memory.state import LayerState

DIM, HIDDEN, ROWS = 6, 5, 3
KINDS = (CMS, IndependentCMS, NestedCMS)


def make(kind: type[ContinuumMemory], levels, **options) -> ContinuumMemory:
    torch.manual_seed(0)
    return kind(DIM, HIDDEN, levels, **options).double()


def draw(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return inputs and targets, [*shape, DIM] each."""
    return tuple(torch.randn(2, *shape, DIM, dtype=torch.double, generator=torch.Generator().manual_seed(seed)))


def gradients(cms: ContinuumMemory, state: LayerState, x: Tensor, target: Tensor) -> tuple[LayerState, list[Tensor]]:
    """Return the tracked state and the gradients of the squared error, mean over a row's tokens."""
    state = cms.track(state, len(x))
    y, _ = cms(x, state)
    loss = ((y - target) ** 2).sum(-1).mean(1).sum()
    return state, list(torch.autograd.grad(loss, list(cms.weights(state).values())))


def learn(
    cms: ContinuumMemory, state: LayerState, x: Tensor, target: Tensor, tokens: Tensor | None = None
) -> tuple[LayerState, dict[str, Update]]:
    """Learn from one chunk of that loss."""
    state, grads = gradients(cms, state, x, target)
    count = torch.full((len(x),), x.shape[1]) if tokens is None else tokens
    return cms.write(cms.accumulate(state, grads, count))
