"""Find the attention of a pretrained decoder by its structure, whatever its class is called."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from everlearn.convert.families import Family, blocks_of

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
