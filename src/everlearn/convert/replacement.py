"""Put memories into the places of attentions and MLPs of a pretrained decoder, some blocks at a time."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from everlearn.convert import hybrid_files
from everlearn.convert.adapter import base_hash
from everlearn.convert.attention import Attention, find_attention
from everlearn.convert.cache import sight_of
from everlearn.convert.families import Family, blocks_of, find_family, shape_of
from everlearn.convert.in_place import InPlace, MemoryMixer, MemoryMLP, listen, places
from everlearn.convert.replace_config import ATTENTION, MLP, ReplaceConfig, name_of
from everlearn.convert.replaced import ReplacedModel
from everlearn.convert.substitutes import Site, Substitute, delta
from everlearn.layers.leveled import LeveledMemory

Chosen = Mapping[int, Substitute]


def replace_blocks(
    model: nn.Module,
    tokenizer: Any = None,
    *,
    attention: Chosen | None = None,
    mlp: Chosen | None = None,
    chunk_size: int = 128,
    window: int | None = None,
    family: Family | None = None,
    from_projections: bool = True,
) -> ReplacedModel:
    """Return a copy of a decoder in which memories stand in the places of some attentions and MLPs.

    The copy predicts worse at first, except where a Continuum Memory System takes over all units of a gated MLP: let it
    learn from the original by `convert.distil`. With nothing replaced it is the original, bit for bit. The argument
    stays as it was, to teach; the copy needs as much memory again. The window in which attention sees is that of the
    original; what a memory holds has no bound but its size.

    Args:
        model: a causal language model of Hugging Face.
        tokenizer: that of the model; needed to read text, not to read token numbers.
        attention: index of a block -> what mixes its tokens instead, such as `Delta()`; negative ones count from the
            last.
        mlp: the same for its MLP: `Continuum()` or `Delta()`.
        chunk_size: tokens that share one gradient anchor, where something learns by gradient while it reads.
        window: tokens that a token sees where attention is left; None takes the length the model was trained for.
        family: where the model keeps its blocks and MLPs, for a structure that is not known.
        from_projections: start from the attention's projections and the MLP's units; False draws everything.
    Returns:
        the hybrid, in evaluation mode; its parameters take gradients.
    Raises:
        ValueError: a structure that is not known, a block outside the model or named twice, a memory that does not fit
            its place or cannot start from what it replaces, or a model that holds memories already.
    """
    if isinstance(model, ReplacedModel) or places(model):
        raise ValueError(
            f"{type(model).__name__} holds memories in the place of {', '.join(places(model)) or 'nothing'} already; "
            "give the ReplacedModel to replace_more, or the original model here"
        )
    found = find_family(model, patterns=False) if family is None else family
    config = ReplaceConfig(
        attention=_indexed(model, found, attention or {}),
        mlp=_indexed(model, found, mlp or {}),
        chunk_size=chunk_size,
        window=window,
        family=family,
        original=base_hash(model),
    )
    where = find_attention(model, found) if config.attention else None
    return _hybrid(_copy(model), tokenizer, config, found, where, from_projections)


def replace_attention(
    model: nn.Module,
    tokenizer: Any = None,
    *,
    layers: Sequence[int],
    memory: Substitute = delta,
    window: int | None = None,
    from_projections: bool = True,
) -> ReplacedModel:
    """Return a copy of a decoder in which the attention of some blocks is a memory; see `replace_blocks`.

    Args:
        model, tokenizer, window, from_projections: see `replace_blocks`.
        layers: indices of the blocks; a negative one counts from the last. Empty replaces nothing.
        memory: what mixes tokens instead.
    Raises:
        ValueError: see `replace_blocks`.
    """
    chosen = dict.fromkeys(layers, memory)
    return replace_blocks(model, tokenizer, attention=chosen, window=window, from_projections=from_projections)


def replace_more(
    model: ReplacedModel,
    *,
    attention: Chosen | None = None,
    mlp: Chosen | None = None,
    from_projections: bool = True,
) -> ReplacedModel:
    """Return a copy of a hybrid in which memories stand in further places.

    Args:
        model: stays as it was; what its memories have learned is copied.
        attention, mlp: see `replace_blocks`.
        from_projections: see `replace_blocks`; of the hybrid's own attention and MLPs.
    Returns:
        the hybrid, in evaluation mode.
    Raises:
        ValueError: a place that holds a memory already; see also `replace_blocks`.
    """
    grown = {}
    for place, old, chosen in (
        (ATTENTION, model.config.attention, attention or {}),
        (MLP, model.config.mlp, mlp or {}),
    ):
        new = _indexed(model.base, model.family, chosen)
        if twice := sorted(set(old) & set(new)):
            raise ValueError(
                f"the {place} of block {twice[0]} is a {old[twice[0]]!r} already; replaced so far are "
                f"{', '.join(model.config.names())}; name other blocks, or begin again from the original"
            )
        grown[place] = dict(sorted({**old, **new}.items()))
    config = dataclasses.replace(model.config, **cast(Any, grown))
    where = model.attention
    if where is None and config.attention:
        where = find_attention(model.base, model.family)
    return _hybrid(_copy(model.base), model.tokenizer, config, model.family, where, from_projections)


def load_replaced(folder: Path | str) -> ReplacedModel:
    """Read a hybrid that `ReplacedModel.save` wrote, with its tokenizer.

    Raises:
        ValueError: no hybrid there, or one that is not whole, was changed, or is of a newer format.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tensors, meta = hybrid_files.load(folder)
    described = dict(meta["base"])
    dtype = getattr(torch, meta["dtype"])
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model(described.pop("model_type"), **described), dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(folder) if meta["tokenizer"] else None
    config = ReplaceConfig.from_dict(meta["config"])
    family = find_family(base, patterns=False) if config.family is None else config.family
    where = find_attention(base, family) if config.attention else None
    replaced = _hybrid(_copy(base), tokenizer, config, family, where, False)
    replaced.base.load_state_dict(tensors, strict=False)
    if replaced.fingerprint() != meta["fingerprint"]:
        raise ValueError(f"{folder} gives another model than was saved; load it with the versions that saved it")
    return replaced


def _copy(model: nn.Module) -> nn.Module:
    """Return a copy that takes gradients and keeps no cache of its own."""
    base = copy.deepcopy(model).eval().requires_grad_(True)
    config: Any = base.config
    config.use_cache = False
    if (generation := getattr(base, "generation_config", None)) is not None:
        generation.use_cache = False
    return base


def _hybrid(
    base: nn.Module,
    tokenizer: Any,
    config: ReplaceConfig,
    family: Family,
    attention: Attention | None,
    from_projections: bool,
) -> ReplacedModel:
    """Put new memories into the places where there is none yet, and number the attentions that are left."""
    sight = sight_of(base, config.window)
    blocks = blocks_of(base, family)
    for index, block in enumerate(blocks):
        for place, where in ((ATTENTION, attention), (MLP, family)):
            chosen = config.at(index, place)
            if chosen is not None and where is not None:
                _fill(base, block, name_of(index, place), chosen, where, config, from_projections)
    if attention is not None:
        left = [each for block in blocks if not isinstance(each := block.get_submodule(attention.name), InPlace)]
        for number, old in enumerate(left):
            cast(Any, old).layer_idx = number  # its place in a cache that holds attention alone
    return ReplacedModel(base, tokenizer, config, family, attention, sight)


def _fill(
    base: nn.Module,
    block: nn.Module,
    name: str,
    chosen: Substitute,
    where: Attention | Family,
    config: ReplaceConfig,
    from_projections: bool,
) -> None:
    """Put one memory into its place, unless it stands there already."""
    path = where.name if isinstance(where, Attention) else where.mlp
    old = block.get_submodule(path)
    if isinstance(old, InPlace):
        return
    heads = cast(Any, base).config.get_text_config().num_attention_heads
    weight = cast(Any, base).get_input_embeddings().weight
    if isinstance(where, Attention):
        site = Site(cast(Any, old).get_submodule(where.out).weight.shape[0], heads, 0, config.chunk_size)
    else:
        dim, hidden = shape_of(old.get_submodule(where.down))
        site = Site(dim, heads, hidden, config.chunk_size)
    memory = chosen.build(site)
    # what steps while it reads must not be rounded to bfloat16
    wide = torch.promote_types(weight.dtype, torch.float32) if isinstance(memory, LeveledMemory) else weight.dtype
    memory = memory.to(weight.device, wide)
    if from_projections:
        chosen.start(memory, old, where)
    if isinstance(where, Attention):
        block.set_submodule(path, MemoryMixer(memory, name).eval())
        return
    stands = MemoryMLP(memory, name).eval()
    block.set_submodule(path, stands)
    listen(block, stands)


def _indexed(model: nn.Module, family: Family, chosen: Chosen) -> dict[int, Substitute]:
    """Return a choice by the indices of blocks from the first, in order."""
    count = len(blocks_of(model, family))
    if wrong := [i for i in chosen if isinstance(i, bool) or not isinstance(i, int) or not -count <= i < count]:
        raise ValueError(
            f"block {wrong[0]!r} is not of {type(model).__name__}, whose blocks are 0 to {count - 1}; name "
            "some of these"
        )
    if len({i % count for i in chosen}) < len(chosen):
        raise ValueError(f"blocks {sorted(chosen)} name one block twice, of 0 to {count - 1}; name each once")
    return {i % count: chosen[i] for i in sorted(chosen, key=lambda i: i % count)}
