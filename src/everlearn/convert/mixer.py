"""A delta memory in the place of a pretrained attention: the same call, with a matrix for a cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from everlearn.convert.families import Family, blocks_of
from everlearn.layers import DeltaMemory
from everlearn.memory.state import LayerState

# name of the attention in a block, its projections (queries, keys and values) and the one out of it
ATTENTIONS = (
    ("self_attn", ("q_proj", "k_proj", "v_proj"), "o_proj"),  # Llama, Qwen2, Qwen3, Mistral, Gemma, OLMo, StableLM
    ("self_attn", ("qkv_proj",), "o_proj"),  # Phi-3
    ("self_attn", ("q_proj", "k_proj", "v_proj"), "dense"),  # Phi
)


@dataclass(frozen=True)
class Attention:
    """Where a block keeps its attention.

    Args:
        name: of the module inside a block.
        into: names of the projections that read the residual stream.
        out: name of the projection that writes to it.
    """

    name: str
    into: tuple[str, ...]
    out: str


class MemoryCache(DynamicCache):
    """Keys and values of the layers that are attention, and the states of those that are not, for one call.

    Args:
        states: name of a block -> what its memory has read; a missing one starts empty. Replaced as the model reads.
        mask: [B, T] bool, each row's real tokens first; None means all are.
    """

    def __init__(self, states: dict[str, LayerState], mask: Tensor | None) -> None:
        super().__init__()
        self.states, self.mask = states, mask


class MemoryMixer(nn.Module):
    """Answer in the place of attention by a delta memory, which sees the order of tokens without being told.

    Without a cache it reads from an empty memory; with a `MemoryCache` it goes on from the state that stands there.

    Args:
        memory: [B, T, dim] -> [B, T, dim].
        name: of its block, under which a cache holds its state.
    """

    def __init__(self, memory: DeltaMemory, name: str) -> None:
        super().__init__()
        self.memory, self.name = memory, name

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
        if past_key_values is None:
            _check_no_padding(attention_mask)
            return self.memory(hidden_states)[0], None
        if not isinstance(past_key_values, MemoryCache):
            raise ValueError(
                f"a {type(past_key_values).__name__} holds no state for {self.name!r}, which is a delta memory and no "
                "attention; read with ReplacedModel(ids, state), or give use_cache=False"
            )
        state = past_key_values.states.get(self.name)
        y, past_key_values.states[self.name] = self.memory(hidden_states, state, past_key_values.mask)
        return y, None


def find_attention(model: nn.Module, family: Family) -> Attention:
    """Return where a decoder keeps its attention.

    Raises:
        ValueError: a structure that is not known.
    """
    block = blocks_of(model, family)[0]
    for name, into, out in ATTENTIONS:
        child = dict(block.named_children()).get(name)
        if child is not None and all(part in dict(child.named_children()) for part in (*into, out)):
            return Attention(name, into, out)
    known = " or ".join(f"{name}.{'/'.join((*into, out))}" for name, into, out in ATTENTIONS)
    raise ValueError(
        f"the attention of {type(model).__name__} is not known: its blocks hold {list(dict(block.named_children()))}; "
        f"known is {known}; choose a model such as Llama, Qwen or Mistral"
    )


def copy_projections(memory: DeltaMemory, attention: nn.Module, where: Attention) -> None:
    """Start a memory from the projections of the attention that it replaces; groups of keys are repeated.

    Raises:
        ValueError: heads of another size, or biases, for which the memory has no place.
    """
    matrices = [getattr(attention, part).weight for part in where.into]
    biases = [getattr(attention, part).bias for part in (*where.into, where.out)]
    out, dim = getattr(attention, where.out).weight, memory.dim
    joined = torch.cat([*matrices])
    extra = len(joined) - dim  # rows of keys and of values together
    if out.shape != (dim, dim) or extra % 2 or (extra // 2) % memory.head_dim or dim % max(extra // 2, 1):
        raise ValueError(
            f"the projections are {[tuple(m.shape) for m in (*matrices, out)]}, and cannot start a memory of "
            f"{memory.num_heads} heads of {memory.head_dim}; give the model's own num_heads, or from_projections=False"
        )
    if any(bias is not None for bias in biases):
        raise ValueError(
            f"the projections {[*where.into, where.out]} have biases, which a memory has no place for; "
            "give from_projections=False"
        )
    size = extra // 2
    queries, *pair = joined.split([dim, size, size])
    wide = [part.unflatten(0, (-1, memory.head_dim)).repeat_interleave(dim // size, 0).flatten(0, 1) for part in pair]
    with torch.no_grad():
        memory.qkv.weight.copy_(torch.cat([queries, *wide]))
        memory.out.weight.copy_(out)


def _check_no_padding(mask: Tensor | None) -> None:
    """Refuse a mask in which a token does not see itself."""
    if mask is None or mask.ndim != 4:
        return
    own = mask.diagonal(dim1=-2, dim2=-1)
    if bool((~own if mask.dtype == torch.bool else own < 0).any()):
        raise ValueError(
            "the mask hides tokens as padding, which a delta memory would read as text; read with "
            "ReplacedModel(ids, state, mask), or give rows of one length"
        )
