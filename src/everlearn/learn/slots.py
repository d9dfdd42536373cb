"""Reading with slots: score with what is recalled first, then keep what was read."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from everlearn.learn.chunk import token_nll
from everlearn.memory.slots import SlotMemory, SlotState
from everlearn.memory.state import ModelState
from everlearn.models.rows import check_tokens

TAIL = "slots"  # in the context of a state: what the next keys need of the tokens before them


@runtime_checkable
class HiddenModel(Protocol):
    """A model that shows what it made of each token before it turned it into logits."""

    def hidden(
        self, ids: Tensor, state: ModelState | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, ModelState]:
        """Return keys [B, T, D], logits [B, T, V] and the state after the tokens; nothing is learned."""
        ...


def look_up(
    model: HiddenModel,
    memory: SlotMemory,
    slots: SlotState,
    ids: Tensor,
    state: ModelState | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, ModelState]:
    """Read tokens with what the slots hold; nothing is learned, and nothing is kept.

    Args:
        model: such as `models.Decoder`.
        memory: how to look things up.
        slots: of as many rows as the tokens.
        ids: [B, T].
        state: what earlier tokens left; None starts fresh streams.
        mask: [B, T] bool, right padding only.
    Returns:
        logits: [B, T, V], the model's own, bit for bit, where nothing is recalled.
        state: of the model, to pass to the next call; any split of the tokens gives the same results.
    Raises:
        ValueError: tokens, mask or slots that do not fit.
    """
    check_tokens(ids, mask, state)
    _check_padding(mask)
    keys, logits, state = _keys(model, memory, ids, state, mask)
    return memory.read(slots, keys, logits), state


def memorize(
    model: HiddenModel,
    memory: SlotMemory,
    slots: SlotState,
    ids: Tensor,
    state: ModelState,
    mask: Tensor | None = None,
    *,
    document: int | Tensor,
    chunk_size: int = 128,
) -> tuple[Tensor, SlotState, ModelState]:
    """Read a document into slots, chunk by chunk: each is scored with what was kept before it, then kept itself.

    What a token cost with the slots' help is its surprise: what is known already is the first to be dropped.

    Args:
        model: such as `models.Decoder`; its levels learn nothing here.
        memory: how slots are looked up and bounded.
        slots: left untouched.
        ids: [B, T].
        state: what earlier tokens left.
        mask: [B, T] bool, right padding only.
        document: number of each row's document; see `SlotMemory.forget`.
        chunk_size: tokens that are scored before any of them is kept; it changes scores.
    Returns:
        nll: of each token in nats, [B, T] float64; NaN for the first, which nothing predicts, and at padding.
        slots: with the document in them.
        state: of the model after all tokens but the last.
    Raises:
        ValueError: tokens, mask or slots that do not fit, or a chunk_size below 1.
    """
    check_tokens(ids, mask, state)
    _check_padding(mask)
    if chunk_size < 1:
        raise ValueError(f"chunk_size {chunk_size} is below 1; give the tokens that are scored together, such as 128")
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
    nll = torch.full(ids.shape, torch.nan, dtype=torch.float64, device=ids.device)
    with torch.no_grad():
        for start in range(0, ids.shape[1] - 1, chunk_size):
            stop = min(start + chunk_size, ids.shape[1] - 1)
            targets, has_target = ids[:, start + 1 : stop + 1], real[:, start + 1 : stop + 1]
            keys, logits, state = _keys(model, memory, ids[:, start:stop], state, has_target)
            cost = token_nll(memory.read(slots, keys, logits), targets)
            nll[:, start + 1 : stop + 1] = torch.where(has_target, cost.double(), torch.nan)
            slots = memory.write(slots, keys, targets, cost, document, has_target)
    return nll, slots, state


def _keys(
    model: HiddenModel, memory: SlotMemory, ids: Tensor, state: ModelState | None, mask: Tensor | None
) -> tuple[Tensor, Tensor, ModelState]:
    """Read tokens; return their keys, the model's logits, and the state with what the next keys need."""
    before = None if state is None else state.context.get(TAIL)
    hidden, logits, state = model.hidden(ids, state, mask)
    keys, tail = memory.keys(hidden, before["tail"] if before else None, mask)
    return keys, logits, replace(state, context={**state.context, TAIL: {"tail": tail}})


def _check_padding(mask: Tensor | None) -> None:
    """Refuse a mask with a real token behind padding."""
    if mask is not None and bool((mask[:, 1:] & ~mask[:, :-1]).any()):
        raise ValueError("mask has padding before a real token; move real tokens to the left")
