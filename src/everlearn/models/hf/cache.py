"""One `ModelState` as a cache of Hugging Face: what `generate` carries from token to token, and what outlives it."""

from __future__ import annotations

import copy
import weakref
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from everlearn.memory.state import ModelState, concat_rows
from everlearn.models.decoder import Decoder

_PRIME = 1_000_003  # of the hash that tells whether a prompt begins with what was read


class MemoryCache(Cache):
    """Hold the state of a batch of streams; the layers have none of their own.

    `state` is a value: keep it to go back, put another in its place, or hand it to `Learner`. Two counters differ.
    `state.segment_len` counts the real tokens of each row; `get_seq_length` counts columns, padding included, and only
    those since this cache was made or `new_segment` was called, because `generate` cuts that many from a prompt.

    Args:
        model: the decoder that reads with it, and the only one that may.
        state: what streams have been taught and have read; what is generated goes on after it. None starts fresh with
            the first call.
    Raises:
        ValueError: a state of another model.
    """

    def __init__(self, model: Decoder, state: ModelState | None = None) -> None:
        super().__init__(layers=[])
        if state is not None:
            model.check_state(state)
        self.state = state
        self._owner = weakref.ref(model)
        self._columns = 0
        self._hash: Tensor | None = None  # [B], of the columns

    @property
    def batch_size(self) -> int:
        """Return the number of rows, -1 before anything was read."""
        return -1 if self.state is None else self.state.batch_size

    @property
    def is_initialized(self) -> bool:
        """Tell whether it has rows."""
        return self.state is not None

    @property
    def is_compileable(self) -> bool:
        """Return False: the context grows."""
        return False

    @property
    def is_croppable(self) -> bool:
        """Return False: a memory cannot unread; keep `state` to go back."""
        return False

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return how many columns of a prompt have been read."""
        return self._columns

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """Return -1: there is no bound."""
        return -1

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Return the columns that a mask spans, and where it begins."""
        return self._columns + query_length, 0

    def new_segment(self) -> MemoryCache:
        """Close the open segment and return the cache: its context is dropped, its memory stays.

        Call it between the turns or texts that are given one by one; `generate` then takes the new text alone.
        """
        self.state = None if self.state is None else self.state.new_segment()
        self._columns, self._hash = 0, None
        return self

    def reset(self) -> None:
        """Forget everything."""
        self.state = None
        self._columns, self._hash = 0, None

    def repeated(self, repeats: int) -> MemoryCache:
        """Return a cache with each row so many times in a row, as beams need; this one stays."""
        other = copy.copy(self)  # a state is never written in place
        other.batch_repeat_interleave(repeats)
        return other

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        if self.state is not None:
            self._pick(torch.arange(self.state.batch_size).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows, [N] long."""
        if self.state is not None:
            self._pick(indices)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Give each row the past of another, [B] long."""
        self.batch_select_indices(beam_idx)

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse to remove tokens; 0 is nothing to remove.

        Raises:
            ValueError: any other number.
        """
        if tokens_to_remove:
            raise ValueError(
                f"{tokens_to_remove} tokens should be removed from a memory, which cannot unread them; keep "
                "cache.state before reading, and put it back"
            )

    def check(self, model: Decoder, rows: int) -> None:
        """Refuse another model than the cache's own, or another number of rows.

        Raises:
            ValueError: it is not.
        """
        if self._owner() is not model:
            raise ValueError(
                "past_key_values is the cache of another model; start one by model.new_cache(), or carry a memory "
                "over with save_memory and load_memory"
            )
        if self.state is not None and self.state.batch_size != rows:
            raise ValueError(
                f"the cache has {self.state.batch_size} rows, the input has {rows}; keep rows with "
                "cache.batch_select_indices(...), or start one by model.new_cache()"
            )

    def check_prompt(self, ids: Tensor) -> None:
        """Refuse a prompt, [B, T], that does not begin with the columns that were read and go on after them.

        `generate` would cut off so many of its tokens, whatever they are.

        Raises:
            ValueError: it does not.
        """
        if not self._columns:
            return
        if ids.shape[1] > self._columns and torch.equal(_hash(ids[:, : self._columns], 0).cpu(), self._read_hash()):
            return
        raise ValueError(
            f"the cache has read {self._columns} tokens in this segment, and the prompt of {ids.shape[1]} does not go "
            "on after them; give the whole text, or call cache.new_segment() and give the new text alone"
        )

    def whole_state(self) -> ModelState:
        """Return the state with every memory in it, also those that are still as they were learned, as `Learner` asks.

        Raises:
            ValueError: nothing was read yet, or the model is gone.
        """
        model = self._owner()
        if self.state is None or model is None:
            raise ValueError("the cache has no state to give, since it has read nothing; read something with it first")
        with torch.no_grad():
            return concat_rows([self.state], model.initial_state(1)).detach()

    def advance(self, state: ModelState, ids: Tensor) -> None:
        """Take over what the model has left after the columns `ids`, [B, T], padding included."""
        self._hash = _hash(ids, self._columns) + (0 if self._hash is None else self._hash)
        self.state, self._columns = state, self._columns + ids.shape[1]

    def _read_hash(self) -> Tensor:
        """Return the hash of the columns on the CPU."""
        assert self._hash is not None  # there are columns
        return self._hash.cpu()

    def _pick(self, index: Tensor) -> None:
        """Keep rows of everything."""
        assert self.state is not None
        self.state = self.state.rows(index)
        if self._hash is not None:
            self._hash = self._hash.index_select(0, index.to(self._hash.device))

    def __deepcopy__(self, memo: dict[int, Any]) -> MemoryCache:
        """Copy the cache; the model and the state, which is a value, are the same."""
        return copy.copy(self)

    def __repr__(self) -> str:
        return f"MemoryCache({self.batch_size} rows, {self._columns} columns)"


def caught_up(model: Decoder, state: ModelState) -> ModelState:
    """Return a state after the tokens that wait in it, in an unfinished chunk of `learn.read`; nothing is learned."""
    waiting = state.context.get("open")
    if waiting is None:
        return state
    state = replace(state, context={name: part for name, part in state.context.items() if name != "open"})
    model.check_state(state)
    real = torch.arange(waiting["ids"].shape[1], device=waiting["ids"].device) < waiting["count"][:, None]
    with torch.no_grad():
        return model.features(waiting["ids"], state, real)[1]


def _hash(ids: Tensor, start: int) -> Tensor:
    """Return a number for each row of columns that begin at `start`, [B] int64; adding numbers joins columns."""
    weights = torch.tensor(_PRIME, device=ids.device) ** torch.arange(
        start + 1, start + 1 + ids.shape[1], device=ids.device
    )
    return ((ids.long() + 1) * weights).sum(1)
