"""What a stream has taught, as a value: never a buffer of a module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class LayerState:
    """What one layer carries from one call to the next; every tensor is [B, ...], one row per stream.

    Args:
        memory: fast weights and what belongs to them (momenta, accumulated gradients, clocks); it persists.
        context: what only the open segment needs (keys and values, convolution tails); `new_segment` drops it.
    """

    memory: Tensors = field(default_factory=dict)
    context: Tensors = field(default_factory=dict)


@dataclass(frozen=True)
class ModelState:
    """What one batch of streams has taught a model; the parameters hold what was learned before.

    Args:
        memory: layer name -> tensors [B, ...]: absolute fast weights, accumulated gradients, clocks. It persists.
        context: layer name -> tensors [B, ...]: keys and values, convolution tails, and under "open" the tokens of
            the unfinished chunk. It belongs to the open segment.
        tokens_seen: real tokens that the layers have consumed, [B] int64; drives nothing, tells everything.
        segment_len: real tokens consumed in the open segment, [B] int64.
    """

    memory: dict[str, Tensors]
    context: dict[str, Tensors]
    tokens_seen: Tensor
    segment_len: Tensor

    @property
    def batch_size(self) -> int:
        """Return the number of rows, one per stream."""
        return self.tokens_seen.shape[0]

    def layer(self, name: str) -> LayerState:
        """Return the part that belongs to one layer; empty dictionaries where it carries nothing."""
        return LayerState(self.memory.get(name, {}), self.context.get(name, {}))

    def new_segment(self) -> ModelState:
        """Close the open segment: drop the context, keep the memory."""
        return replace(self, context={}, segment_len=torch.zeros_like(self.segment_len))

    def map(self, function: Callable[[Tensor], Tensor]) -> ModelState:
        """Apply `function` to every tensor and return the new state."""
        return pytree.tree_map(function, self)

    def detach(self) -> ModelState:
        """Cut the state from any graph that produced it."""
        return self.map(Tensor.detach)

    def rows(self, index: Tensor | list[int]) -> ModelState:
        """Pick rows, [N] long: one row of a batch, or one row several times."""
        index = torch.as_tensor(index, dtype=torch.long, device=self.tokens_seen.device)
        return self.map(lambda t: t.index_select(0, index))

    def nbytes(self) -> int:
        """Return the bytes that all tensors hold."""
        return sum(t.numel() * t.element_size() for t in pytree.tree_leaves(self))


def with_layers(state: ModelState, layers: Mapping[str, LayerState]) -> ModelState:
    """Return `state` with the named layers replaced; a layer that carries nothing leaves no entry."""
    memory, context = dict(state.memory), dict(state.context)
    for name, layer in layers.items():
        for whole, part in ((memory, layer.memory), (context, layer.context)):
            whole.pop(name, None)
            if part:
                whole[name] = dict(part)
    return replace(state, memory=memory, context=context)


def where_rows(rows: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Take `new` in the rows that are True and `old`, bit for bit, in the others; rows is [B] bool."""
    return torch.where(rows.reshape(-1, *[1] * (new.ndim - 1)), new, old)


pytree.register_dataclass(LayerState, field_names=["memory", "context"], drop_field_names=[])
pytree.register_dataclass(
    ModelState, field_names=["memory", "context", "tokens_seen", "segment_len"], drop_field_names=[]
)
