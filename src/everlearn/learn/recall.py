"""A model and slots as one reader: what the slots recall is mixed in, and each chunk that closes is kept in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol, cast

import torch
from torch import Tensor

from everlearn.layers.leveled import LeveledMemory
from everlearn.learn.chunk import ChunkReport, learn_chunk, token_nll
from everlearn.learn.slots import TAIL, HiddenModel, look_up
from everlearn.memory.in_state import SLOTS, empty_slots, numbers_of, slots_of, with_slots, without_slots
from everlearn.memory.slots import SlotMemory
from everlearn.memory.state import ModelState
from everlearn.models.protocol import TextModel


class ShowingModel(TextModel, HiddenModel, Protocol):
    """A text model that shows what it made of each token."""


class Recalling:
    """A text model that reads with what slots hold; its state is the model's, with the slots inside.

    The levels of the model learn what they would learn without slots, bit for bit: the slots change what is predicted
    and what a token is said to have cost, and no gradient.

    Args:
        model: shows what it made of each token (`hidden`), as `models.Decoder` and `convert.StackedModel` do.
        memory: how slots are looked up and bounded.
    Raises:
        ValueError: a model that does not show it.
    """

    def __init__(self, model: TextModel, memory: SlotMemory) -> None:
        if not isinstance(model, HiddenModel):
            raise ValueError(
                f"a {type(model).__name__} does not show what it made of each token (it has no hidden()), by which "
                "slots are looked up; leave slots out, or give a Decoder or a StackedModel"
            )
        self.model, self.memory = cast(ShowingModel, model), memory
        self.chunk_size, self.device = model.chunk_size, model.device
        self.start_ids, self.stop_ids = model.start_ids, model.stop_ids
        self.encode, self.decode, self.count_bytes = model.encode, model.decode, model.count_bytes
        self.tick, self.fingerprint, self.eval = model.tick, model.fingerprint, model.eval
        with torch.no_grad():
            one = torch.zeros(1, 1, dtype=torch.long, device=model.device)
            hidden, logits, _ = self.model.hidden(one, model.initial_state(1))
        self.dim, self.vocab_size = hidden.shape[-1], logits.shape[-1]

    def __call__(self, ids: Tensor, state: ModelState, mask: Tensor | None = None) -> tuple[Tensor, ModelState]:
        """Return the logits of the mixture, [B, T, V], and the state after the tokens; nothing is kept."""
        logits, after = look_up(self.model, self.memory, slots_of(state), ids, without_slots(state), mask)
        return logits, replace(after, memory={**after.memory, SLOTS: state.memory[SLOTS]})

    def memories(self) -> Mapping[str, LeveledMemory]:
        """Return the memories of the model that learn; slots are none of them."""
        return self.model.memories()

    def initial_state(self, batch_size: int) -> ModelState:
        """Return what fresh streams start from, with empty slots."""
        state = self.model.initial_state(batch_size)
        empty = empty_slots(self.memory, self.dim, self.vocab_size, batch_size, self.device)
        return replace(state, memory={**state.memory, SLOTS: empty})

    def memorize_chunk(
        self, ids: Tensor, state: ModelState, mask: Tensor | None = None, *, skip: Tensor | None = None
    ) -> tuple[ChunkReport, ModelState]:
        """Score a chunk with what the slots held before it, let the levels learn, and keep it in the slots.

        Args:
            ids: [B, n + 1]; inputs are all but the last, targets all but the first.
            state: before the first input, with a document open in every row (`in_state.begin`).
            mask: [B, n + 1] bool, right padding only.
            skip: [B, n + 1] bool, True for tokens that are neither learned from nor kept.
        Returns:
            report: what each target cost with the slots' help, and what the levels did.
            state: with the chunk in its slots.
        Raises:
            ValueError, NotFiniteError: see `learn_chunk`.
        """
        seen, slots, memory = _Seen(self.model), slots_of(state), self.memory
        report, after = learn_chunk(seen, ids, without_slots(state), mask, skip=skip)
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        targets, has_target = ids[:, 1:], real[:, 1:]
        before = state.context.get(TAIL)
        keys, tail = memory.keys(seen.hidden, before["tail"] if before else None, has_target)
        cost = token_nll(memory.read(slots, keys, seen.logits), targets) * has_target
        wanted = has_target if skip is None else has_target & ~skip[:, 1:]
        slots = memory.write(slots, keys, targets, cost, numbers_of(state), wanted)
        after = with_slots(after, slots, like=state)
        return replace(report, nll=cost), replace(after, context={**after.context, TAIL: {"tail": tail}})


class _Seen:
    """A model for one chunk, which remembers what it showed."""

    hidden: Tensor
    logits: Tensor

    def __init__(self, model: ShowingModel) -> None:
        self.model = model

    def __call__(self, ids: Tensor, state: ModelState, mask: Tensor | None) -> tuple[Tensor, ModelState]:
        hidden, logits, state = self.model.hidden(ids, state, mask)
        self.hidden, self.logits = hidden.detach(), logits.detach()
        return logits, state

    def memories(self) -> Mapping[str, LeveledMemory]:
        return self.model.memories()
