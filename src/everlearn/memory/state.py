"""What a stream has taught, as a value: never a buffer of a module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
        memory, context = (
            {layer: {name: function(tensor) for name, tensor in tensors.items()} for layer, tensors in part.items()}
            for part in (self.memory, self.context)
        )
        return ModelState(memory, context, function(self.tokens_seen), function(self.segment_len))

    def detach(self) -> ModelState:
        """Cut the state from any graph that produced it."""
        return self.map(Tensor.detach)

    def rows(self, index: Tensor | list[int]) -> ModelState:
        """Pick rows, [N] long: one row of a batch, or one row several times."""
        index = torch.as_tensor(index, dtype=torch.long, device=self.tokens_seen.device)
        return self.map(lambda t: t.index_select(0, index))

    def is_finite(self) -> bool:
        """Tell whether every number is finite."""
        return all_finite(self.tensors())

    def tensors(self) -> Iterator[Tensor]:
        """Yield every tensor."""
        for part in (self.memory, self.context):
            for tensors in part.values():
                yield from tensors.values()
        yield from (self.tokens_seen, self.segment_len)

    def nbytes(self) -> int:
        """Return the bytes that all tensors hold."""
        return sum(t.numel() * t.element_size() for t in self.tensors())


def with_layers(state: ModelState, layers: Mapping[str, LayerState]) -> ModelState:
    """Return `state` with the named layers replaced; a layer that carries nothing leaves no entry."""
    memory, context = dict(state.memory), dict(state.context)
    for name, layer in layers.items():
        for whole, part in ((memory, layer.memory), (context, layer.context)):
            whole.pop(name, None)
            if part:
                whole[name] = dict(part)
    return replace(state, memory=memory, context=context)


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Tell whether every number is finite."""
    floats = [t.detach() for t in tensors if t.is_floating_point() and t.numel()]
    # one number that stands everywhere, as zeros do, is looked at once
    floats = [t if any(t.stride()) else t.flatten()[:1] for t in floats]
    # NaN and infinity always reach the sum, which is the cheapest pass; large numbers may overflow in it alone
    if not floats or bool(torch.isfinite(torch.stack([t.sum().float() for t in floats])).all()):
        return True
    return all(bool(torch.isfinite(torch.stack(torch.aminmax(t))).all()) for t in floats)


def where_rows(rows: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Take `new` in the rows that are True and `old`, bit for bit, in the others; rows is [B] bool."""
    return row_chooser(rows)(new, old)


def row_chooser(rows: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Return `where_rows` for these rows, which are looked at once."""
    every = bool(rows.all())

    def choose(new: Tensor, old: Tensor) -> Tensor:
        if every and new.shape == old.shape:
            return new
        return torch.where(rows.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return choose


pytree.register_dataclass(LayerState, field_names=["memory", "context"], drop_field_names=[])
pytree.register_dataclass(
    ModelState, field_names=["memory", "context", "tokens_seen", "segment_len"], drop_field_names=[]
)


def concat_rows(states: Sequence[ModelState], fresh: ModelState) -> ModelState:
    """Put several streams into one batch.

    Args:
        states: each with any number of rows.
        fresh: the model's `initial_state(1)`; it fills in layers that a stream has not used yet. Where streams carry
            contexts of different lengths the shorter are padded with zeros, which every layer reads as empty.
    """
    layers: dict[str, dict[str, Tensors]] = {"memory": {}, "context": {}}
    for part, whole in layers.items():
        own = [getattr(state, part) for state in (*states, fresh)]
        for layer in dict.fromkeys(name for tensors in own for name in tensors):
            whole[layer] = _concat_layer([tensors.get(layer, {}) for tensors in own], [s.batch_size for s in states])
    tokens_seen, segment_len = (torch.cat([getattr(s, n) for s in states]) for n in ("tokens_seen", "segment_len"))
    return ModelState(layers["memory"], layers["context"], tokens_seen, segment_len)


def _concat_layer(parts: list[Tensors], rows: list[int]) -> Tensors:
    """Concatenate one layer's tensors; the last of `parts` is the fresh start, which only fills gaps."""
    *own, fresh = parts
    joined = {}
    for leaf in dict.fromkeys(name for tensors in parts for name in tensors):
        known = next(tensors[leaf] for tensors in parts if leaf in tensors)
        start = fresh.get(leaf, torch.zeros_like(known[:1]))
        pieces = [t[leaf] if leaf in t else start.expand(n, *start.shape[1:]) for t, n in zip(own, rows, strict=True)]
        length = max(piece.shape[1] for piece in pieces) if known.ndim > 1 else 0
        joined[leaf] = torch.cat([_pad_to(piece, length) for piece in pieces])
    return joined


def _pad_to(tensor: Tensor, length: int) -> Tensor:
    """Pad the second dimension with zeros at its end."""
    if tensor.ndim < 2 or tensor.shape[1] == length:
        return tensor
    gap = tensor.new_zeros(tensor.shape[0], length - tensor.shape[1], *tensor.shape[2:])
    return torch.cat([tensor, gap], 1)


def take_level(state: ModelState, snapshot: ModelState, level: str) -> ModelState:
    """Roll one level back: its tensors come from `snapshot`, everything else stays.

    Args:
        state: what the stream has taught by now.
        snapshot: an earlier state of the same stream.
        level: name of the level, such as "fast".
    Raises:
        ValueError: no memory of the snapshot has that level.
    """
    prefix = f"{level}."
    taken = {
        layer: {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        for layer, tensors in snapshot.memory.items()
    }
    if not any(taken.values()):
        raise ValueError(f"the snapshot has no level {level!r}; its memories are {sorted(snapshot.memory)}")
    memory = {}
    for layer, tensors in state.memory.items():
        kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix) or not taken.get(layer)}
        memory[layer] = kept | taken.get(layer, {})
    return replace(state, memory=memory)
