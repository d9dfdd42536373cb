"""Swap attention for delta memories in a pretrained decoder, some blocks at a time."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from torch import nn

from everlearn.convert.cache import sight_of
from everlearn.convert.families import Family, blocks_of, find_family
from everlearn.convert.mixer import Attention, MemoryMixer, copy_projections, find_attention
from everlearn.convert.replaced import CONFIG, FORMAT, WEIGHTS, ReplaceConfig, ReplacedModel
from everlearn.layers import DeltaMemory
from everlearn.memory.codec import load_tensors


def replace_attention(
    model: nn.Module,
    tokenizer: Any = None,
    *,
    layers: Sequence[int],
    num_heads: int | None = None,
    conv_width: int = 4,
    alpha_bias: float = 5.0,
    gated: bool = False,
    window: int | None = None,
    from_projections: bool = True,
) -> ReplacedModel:
    """Return a copy of a decoder in which the attention of some blocks is a delta memory.

    The copy predicts worse at first, whatever its start: let it learn from the original by `convert.distil`. With no
    layer it is the original, bit for bit. The argument stays as it was, to teach; the copy needs as much memory again.
    The window in which attention sees is that of the original; what a memory holds has no bound but its size.

    Args:
        model: a causal language model of Hugging Face.
        tokenizer: that of the model; needed to read text, not to read token numbers.
        layers: indices of the blocks; a negative one counts from the last. Empty replaces nothing.
        num_heads: memories per block; None takes the number of the model's attention heads.
        conv_width, alpha_bias, gated: see `layers.DeltaMemory`.
        window: tokens that a token sees where attention is left; None takes the length the model was trained for.
        from_projections: start queries, keys, values and output from the attention's own; False draws them.
    Returns:
        the hybrid, in evaluation mode; its parameters take gradients.
    Raises:
        ValueError: a structure that is not known, an index outside the model, heads that do not divide its size, or
            projections that a memory cannot start from.
    """
    family = find_family(model)
    attention = find_attention(model, family)
    shape = cast(Any, model).config.get_text_config()
    config = ReplaceConfig(
        layers=_indices(model, family, layers),
        num_heads=num_heads or shape.num_attention_heads,
        conv_width=conv_width,
        alpha_bias=alpha_bias,
        gated=gated,
        window=window,
    )
    return _hybrid(_copy(model), tokenizer, config, family, attention, from_projections)


def replace_more(model: ReplacedModel, layers: Sequence[int], *, from_projections: bool = True) -> ReplacedModel:
    """Return a copy of a hybrid in which further blocks hold a memory like those that it has.

    Args:
        model: stays as it was; what its memories have learned is copied.
        layers: see `replace_attention`; blocks that are replaced already stay so.
        from_projections: see `replace_attention`; of the hybrid's own attention.
    Returns:
        the hybrid, in evaluation mode.
    Raises:
        ValueError: see `replace_attention`.
    """
    both = sorted({*model.config.layers, *_indices(model.base, model.family, layers)})
    config = dataclasses.replace(model.config, layers=tuple(both))
    return _hybrid(_copy(model.base), model.tokenizer, config, model.family, model.attention, from_projections)


def load_replaced(folder: Path | str) -> ReplacedModel:
    """Read a hybrid that `ReplacedModel.save` wrote, with its tokenizer.

    Raises:
        ValueError: no hybrid there, or one that is not whole, was changed, or is of a newer format.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} holds no replaced model ({name} is missing); give a folder that save() wrote")
    tensors, meta = load_tensors(folder / WEIGHTS)
    if json.loads((folder / CONFIG).read_text()) != {"format": FORMAT, **meta}:
        raise ValueError(f"{folder / CONFIG} and {WEIGHTS} are not of one model; copy both from the same folder")
    described = dict(meta["base"])
    dtype = next(tensor.dtype for tensor in tensors.values() if tensor.is_floating_point())
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model(described.pop("model_type"), **described), dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(folder) if meta["tokenizer"] else None
    config, family = ReplaceConfig.from_dict(meta["config"]), find_family(base)
    replaced = _hybrid(_copy(base), tokenizer, config, family, find_attention(base, family), False)
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
    base: nn.Module, tokenizer: Any, config: ReplaceConfig, family: Family, attention: Attention, from_projections: bool
) -> ReplacedModel:
    """Put new memories into a model where it has none yet, and number the attentions that are left."""
    sight = sight_of(base, config.window)
    left = 0
    for index, block in enumerate(blocks_of(base, family)):
        old: Any = block.get_submodule(attention.name)
        if isinstance(old, MemoryMixer):
            continue
        if index not in config.layers:
            old.layer_idx = left  # its place in a cache that holds attention alone
            left += 1
            continue
        weight = getattr(old, attention.out).weight
        memory = DeltaMemory(
            weight.shape[0],
            config.num_heads,
            conv_width=config.conv_width,
            alpha_bias=config.alpha_bias,
            gated=config.gated,
        ).to(weight)
        if from_projections:
            copy_projections(memory, old, attention)
        block.set_submodule(attention.name, MemoryMixer(memory, f"block.{index}").eval())
    return ReplacedModel(base, tokenizer, config, family, attention, sight)


def _indices(model: nn.Module, family: Family, layers: Sequence[int]) -> tuple[int, ...]:
    """Return the indices of the chosen blocks, in order."""
    count = len(blocks_of(model, family))
    wrong = isinstance(layers, str) or any(
        isinstance(i, bool) or not isinstance(i, int) or not -count <= i < count for i in layers
    )
    if wrong:
        raise ValueError(
            f"layers {layers!r} are not of {type(model).__name__}, whose blocks are 0 to {count - 1}; "
            "give a list of some of these numbers"
        )
    return tuple(sorted({i % count for i in layers}))
