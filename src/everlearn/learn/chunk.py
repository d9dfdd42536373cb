"""Learning from a stream: score a chunk first, then let the levels that are due step.  [NL eq. 71]"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from everlearn.layers.level_step import Update
from everlearn.layers.leveled import LeveledMemory
from everlearn.memory.state import LayerState, ModelState, all_finite, with_layers
from everlearn.models.rows import check_tokens

Updates = dict[str, dict[str, Update]]


class LearningModel(Protocol):
    """What learning needs of a model: to read with a state, and to name the memories that learn."""

    def __call__(self, ids: Tensor, state: ModelState, mask: Tensor | None) -> tuple[Tensor, ModelState]:
        """Return logits [B, T, V] and the state after the tokens."""
        ...

    def memories(self) -> Mapping[str, LeveledMemory]:
        """Return the memories that learn, by the name of their layer."""
        ...


@dataclass(frozen=True)
class ChunkReport:
    """What one chunk showed.

    Args:
        nll: negative log-likelihood of each target in nats, [B, n], taken before anything was learned from it; 0 where
            a row has no target.
        updates: layer name -> level name -> which rows stepped and how surprised they were.
        also: the gradients that were asked for beside those of the levels, zero where the loss does not depend.
    """

    nll: Tensor
    updates: Updates
    also: tuple[Tensor, ...] = ()


class NotFiniteError(ValueError):
    """A loss or gradient is not finite; nothing was learned and the caller's state is as it was."""


def learn_chunk(
    model: LearningModel,
    ids: Tensor,
    state: ModelState,
    mask: Tensor | None = None,
    *,
    skip: Tensor | None = None,
    differentiable: bool = False,
    second_order: bool = False,
    also: Sequence[Tensor] = (),
) -> tuple[ChunkReport, ModelState]:
    """Score one chunk, take one gradient per row, and let the levels that are due step.  [NL eq. 71]

    The gradient is that of each row's mean next-token loss with respect to all levels' weights; what the mixers carry
    into the chunk is stale: no gradient flows into it, inside the chunk it flows through time.

    Args:
        model: such as `models.Decoder`.
        ids: [B, n + 1]; inputs are all but the last, targets all but the first.
        state: before the first input.
        mask: [B, n + 1] bool, right padding only; a row with fewer than two real tokens learns nothing.
        skip: [B, n + 1] bool, True for tokens that are context alone: scored, but not learned from as targets. They
            do not count for a level's period either. None means that every token is learned from.
        differentiable: keep the graph, so that an outer loss can train through the writes (first order: the inner
            gradient itself is taken as given).
        second_order: also keep the graph of the inner gradient, so that the outer gradient is exact and a start can be
            meta-learned (MAML). Implies `differentiable`; the values are the same to rounding.
        also: tensors, such as parameters, whose gradient of the loss, summed over rows and tokens, is taken in the same
            backward pass. The state may then belong to a graph that leads to them.
    Returns:
        report: the score of every target and what the levels did.
        state: after the inputs (the last token is not consumed yet).
    Raises:
        ValueError: tokens, mask or state that do not fit.
        NotFiniteError: the loss, a gradient, or what would have been learned is NaN or infinite.
    """
    check_tokens(ids, mask, state)
    check_skip(ids, skip)
    if mask is not None and bool((mask[:, 1:] & ~mask[:, :-1]).any()):
        raise ValueError("mask has padding before a real token; move real tokens to the left, or use learn.read")
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
    has_target = real[:, 1:]
    wanted = has_target if skip is None else has_target & ~skip[:, 1:]
    count = wanted.sum(1)
    differentiable = differentiable or second_order
    start = state if differentiable or also else state.detach()
    with torch.enable_grad(), _twice_differentiable(second_order):
        memories = model.memories()
        tracked = {name: cms.track(start.layer(name), len(ids)) for name, cms in memories.items()}
        logits, after = model(ids[:, :-1], with_layers(start, tracked), has_target)
        nll = token_nll(logits, ids[:, 1:]) * has_target
        weights = {name: list(cms.weights(tracked[name]).values()) for name, cms in memories.items()}
        leaves = [w for own in weights.values() for w in own]
        loss = (nll * wanted).sum()
        found = _gradients(loss, [*leaves, *also], differentiable, second_order)
    if not differentiable:
        nll, after = nll.detach(), after.detach()
    grads = iter(found)
    written: dict[str, LayerState] = {}
    updates: Updates = {}
    for name, cms in memories.items():
        layer = cms.accumulate(after.layer(name), [next(grads) for _ in weights[name]], count, summed=True)
        written[name], done = cms.write(layer)
        updates |= {name: done} if done else {}
    after = with_layers(after, written)
    # a gradient that is not finite shows in what it has moved, or in what waits for a level's next step
    asked = found[len(leaves) :]
    if not all_finite((loss, *asked, *after.tensors())):
        raise NotFiniteError(_not_finite(loss))
    return ChunkReport(nll, updates, asked), after


def check_skip(ids: Tensor, skip: Tensor | None) -> None:
    """Refuse a `skip` that is not one truth value for each token."""
    if skip is not None and (skip.dtype != torch.bool or skip.shape != ids.shape):
        raise ValueError(
            f"skip is {skip.dtype} of shape {tuple(skip.shape)}, but must be bool of shape {tuple(ids.shape)}; "
            "pass True where a token is context alone"
        )


def check_predictions(numbers: Tensor) -> None:
    """Refuse logits, or costs of tokens, among which there is NaN.

    Raises:
        NotFiniteError: there is.
    """
    if bool(numbers.isnan().any()):
        raise NotFiniteError(
            "the model predicts NaN, so it says nothing of this text; look for NaN in its weights, and give an earlier "
            "checkpoint"
        )


def token_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the negative log-likelihood of each target in nats, [B, T], computed in at least float32."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").reshape(targets.shape)


def _twice_differentiable(needed: bool) -> AbstractContextManager[None]:
    """Let attention use the only kernel whose gradient has a gradient itself, where one is needed."""
    return sdpa_kernel(SDPBackend.MATH) if needed else nullcontext()


def _gradients(loss: Tensor, weights: list[Tensor], differentiable: bool, second_order: bool) -> tuple[Tensor, ...]:
    """Differentiate the sum over rows of each row's summed loss."""
    if not weights:
        return ()
    return torch.autograd.grad(
        loss, weights, retain_graph=differentiable, create_graph=second_order, materialize_grads=True
    )


def _not_finite(loss: Tensor) -> str:
    """Say what is wrong with a chunk that teaches what is not finite."""
    if not bool(torch.isfinite(loss)):
        return (
            f"the loss of this chunk is {loss.item()}; nothing was learned from it; look for NaN in the model's "
            "weights, or lower eta"
        )
    return "what this chunk would teach is not finite; nothing was learned from it; lower the levels' eta"
