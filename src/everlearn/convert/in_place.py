"""Memories in the places of a pretrained attention or MLP: the same calls, and a state that the cache carries."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from everlearn.layers import DeltaMemory
from everlearn.layers.continuum import ContinuumMemory
from everlearn.memory.state import LayerState

Memory = DeltaMemory | ContinuumMemory  # y, state = memory(x, state, mask)


class MemoryCache(DynamicCache):
    """Keys and values of the layers that are attention, and the states of the memories in others' places, for one call.

    Args:
        states: name of a place -> what its memory has read; a missing one starts empty. Replaced as the model reads.
        mask: [B, T] bool, each row's real tokens first; None means all are.
    """

    def __init__(self, states: dict[str, LayerState], mask: Tensor | None) -> None:
        super().__init__()
        self.states, self.mask = states, mask

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let row i go on from row beam_idx[i]."""
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]
        self._each(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        super().batch_repeat_interleave(repeats)
        self._each(lambda tensor: tensor.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        super().batch_select_indices(indices)
        self._each(lambda tensor: tensor[indices])

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse to take tokens back, which a memory has no way to do.

        Raises:
            ValueError: there is a memory.
        """
        if self.states:
            raise ValueError(
                f"{abs(tokens_to_remove)} tokens cannot be taken back out of a delta memory, as this way of generating "
                "asks; choose greedy, sampling or beams"
            )
        super().crop(tokens_to_remove)

    def _each(self, function: Callable[[Tensor], Tensor]) -> None:
        """Apply a function to every tensor of every state."""
        for name, state in self.states.items():
            memory, context = ({n: function(t) for n, t in part.items()} for part in (state.memory, state.context))
            self.states[name] = LayerState(memory, context)


class InPlace(nn.Module, ABC):
    """A memory in a place of a pretrained block.

    Args:
        memory: [B, T, dim] -> [B, T, dim].
        name: of its place, under which a cache holds its state.
    """

    def __init__(self, memory: Memory, name: str) -> None:
        super().__init__()
        self.memory, self.name = memory, name

    def read(self, x: Tensor, cache: MemoryCache | None) -> Tensor:
        """Read with the state that stands in the cache, and leave the new one there; without a cache, afresh.

        Args:
            x: [B, T, dim]; a memory with levels computes in its own dtype, at least float32.
            cache: of this call.
        """
        state, mask = (None, None) if cache is None else (cache.states.get(self.name), cache.mask)
        y, after = self.memory(x.to(next(self.memory.parameters()).dtype), state, mask)
        if cache is not None:
            cache.states[self.name] = after
        return y.to(x.dtype)


class MemoryMixer(InPlace):
    """Answer in the place of attention by a delta memory, which sees the order of tokens without being told."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, past_key_values: Any = None, **_others: Any
    ) -> tuple[Tensor, None]:
        """Read what the block's norm gives; the other arguments of attention, such as positions, are not needed.

        Args:
            hidden_states: [B, T, dim].
            attention_mask: looked at only without a cache: it must hide no token from itself, as padding does.
            past_key_values: a `MemoryCache`, or None.
        Returns:
            what is added to the residual stream, [B, T, dim], and None for the attention's weights.
        Raises:
            ValueError: another kind of cache, or padding.
        """
        return self.read(hidden_states, _checked(past_key_values, attention_mask, self.name)), None


class MemoryMLP(InPlace):
    """Answer in the place of an MLP by a delta memory or a Continuum Memory System.

    An MLP is not told what the block carries: `listen` lets the block say so.
    """

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Read what the block's norm gives, [B, T, dim]; return what is added to the residual stream, [B, T, dim]."""
        return self.read(hidden_states, _CARRIED.get())


# a context variable, so that threads and tasks do not meet; it is set while one block runs
_CARRIED: ContextVar[MemoryCache | None] = ContextVar("everlearn_carried", default=None)


def listen(block: nn.Module, place: MemoryMLP) -> None:
    """Let the memory in the place of a block's MLP go on from the state in the cache that the block is called with."""
    mixes = isinstance(place.memory, DeltaMemory)
    block.register_forward_pre_hook(partial(_open, place.name, mixes), with_kwargs=True)
    block.register_forward_hook(_close, always_call=True)


def places(model: nn.Module) -> dict[str, InPlace]:
    """Return the memories that stand in a model, by the name of their place, in the order of the blocks."""
    return {module.name: module for module in model.modules() if isinstance(module, InPlace)}


def _open(name: str, mixes: bool, _block: nn.Module, args: Any, kwargs: Any) -> None:
    """Note the cache of a call of the block."""
    given = [value for value in (*args, *kwargs.values()) if isinstance(value, Cache)]
    cache = given[0] if given else None
    if not mixes and not isinstance(cache, MemoryCache):
        cache = None  # what reads each token by itself has nothing to carry
    _CARRIED.set(_checked(cache, kwargs.get("attention_mask") if mixes else None, name))


def _close(_block: nn.Module, _args: Any, _output: Any) -> None:
    """Forget the cache when the block has run."""
    _CARRIED.set(None)


def _checked(cache: Any, mask: Tensor | None, name: str) -> MemoryCache | None:
    """Return the cache of a call.

    Raises:
        ValueError: it holds no states, or there is none and the mask hides a token from itself, as padding does.
    """
    if cache is not None and not isinstance(cache, MemoryCache):
        raise ValueError(
            f"a {type(cache).__name__} holds no state for {name!r}, which is a delta memory; read with "
            "ReplacedModel(ids, state), or give use_cache=False"
        )
    if cache is None and mask is not None and mask.ndim == 4:
        own = mask.diagonal(dim1=-2, dim2=-1)
        if bool((~own if mask.dtype == torch.bool else own < 0).any()):
            raise ValueError(
                "the mask hides tokens as padding, which a delta memory would read as text; read with "
                "ReplacedModel(ids, state, mask), or give rows of one length"
            )
    return cast("MemoryCache | None", cache)
