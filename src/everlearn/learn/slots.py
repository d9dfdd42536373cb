"""Reading with slots: score with what is recalled first, then keep what was read."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from everlearn.learn.chunk import token_nll
from everlearn.memory.slots import SlotMemory, SlotState
from everlearn.memory.state import ModelState
from everlearn.models.rows import check_tokens


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
        mask: [B, T] bool, True for real tokens.
    Returns:
        logits: [B, T, V], the model's own, bit for bit, where nothing is recalled.
        state: of the model, to pass to the next call.
    """
    keys, logits, state = model.hidden(ids, state, mask)
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
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
    if chunk_size < 1 or bool((real[:, 1:] & ~real[:, :-1]).any()):
        raise ValueError(f"chunk_size is {chunk_size} or the mask pads inside; give chunk_size >= 1 and right padding")
    nll = torch.full(ids.shape, torch.nan, dtype=torch.float64, device=ids.device)
    with torch.no_grad():
        for start in range(0, ids.shape[1] - 1, chunk_size):
            stop = min(start + chunk_size, ids.shape[1] - 1)
            targets, has_target = ids[:, start + 1 : stop + 1], real[:, start + 1 : stop + 1]
            keys, logits, state = model.hidden(ids[:, start:stop], state, has_target)
            cost = token_nll(memory.read(slots, keys, logits), targets)
            nll[:, start + 1 : stop + 1] = torch.where(has_target, cost.double(), torch.nan)
            slots = memory.write(slots, keys, targets, cost, document, has_target)
    return nll, slots, state
