"""Swap attention for delta memories in a pretrained decoder: a hybrid that is read like any model with a state."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from everlearn.convert.adapter import base_hash
from everlearn.convert.cache import Sight, sight_of, to_cache
from everlearn.convert.families import Family, blocks_of, find_family
from everlearn.convert.mixer import Attention, MemoryCache, MemoryMixer, copy_projections, find_attention
from everlearn.convert.pretrained import CACHE, Pretrained
from everlearn.layers import DeltaMemory
from everlearn.layers.level_step import Update
from everlearn.layers.leveled import LeveledMemory
from everlearn.memory.codec import digest, load_tensors, save_tensors
from everlearn.memory.files import atomic_write
from everlearn.memory.state import ModelState, with_layers
from everlearn.models.rows import without_padding

CONFIG, WEIGHTS = "replacement.json", "replacement.safetensors"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ReplaceConfig:
    """Which blocks hold a delta memory instead of attention, and of which kind; see `layers.DeltaMemory`.

    Args:
        layers: indices of the blocks, in order; empty leaves the model as it is.
        num_heads: memories per block, >= 1; divides the model's size.
        conv_width: tokens that the convolution sees, >= 1.
        alpha_bias: start of the retention gate's logit.
        gated: False for the delta rule that can flip a sign, True for gated DeltaNet.
        window: tokens that a token sees in the blocks that keep attention; see `cache.Sight`.
    """

    layers: tuple[int, ...]
    num_heads: int
    conv_width: int = 4
    alpha_bias: float = 5.0
    gated: bool = False
    window: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {**dataclasses.asdict(self), "layers": list(self.layers)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ReplaceConfig:
        """Rebuild a config from `to_dict`.

        Raises:
            ValueError: a field that does not exist.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(set(data) - set(known)):
            raise ValueError(f"unknown field {unknown[0]!r} of a replaced model; known fields are {', '.join(known)}")
        return cls(**{**data, "layers": tuple(data["layers"])})


class ReplacedModel(Pretrained):
    """A pretrained decoder in which some blocks hold a delta memory where attention was.

    Made by `replace_attention`. What a stream has left is a value, `ModelState`: the matrices of a replaced block in
    `memory["block.N"]` and its convolution in `context["block.N"]`; keys and values of the other blocks in
    `context["cache"]`. With every block replaced, what a stream needs no longer grows with its length. Nothing here
    learns by gradient while it reads; `learn.read` and `Learner` score and generate with it. Its parameters are
    ordinary ones, which `convert.distil` trains; `base(ids)` gives logits without a state.

    Args:
        base: the hybrid; it remembers nothing between calls by itself (`use_cache` is off).
        tokenizer: that of the model, or None where only token numbers are read.
        config: what was replaced.
        family: where the model keeps its blocks.
        attention: where a block keeps its attention.
        sight: what a token sees of earlier ones in the blocks that keep attention.
    """

    chunk_size = 128  # tokens that a learner reads at once; changes no result

    def __init__(
        self,
        base: nn.Module,
        tokenizer: Any,
        config: ReplaceConfig,
        family: Family,
        attention: Attention,
        sight: Sight,
    ) -> None:
        super().__init__(base, tokenizer, sight)
        self.config, self.family, self.attention = config, family, attention

    def mixers(self) -> dict[str, MemoryMixer]:
        """Return what stands in the place of attention, by the name of its block."""
        found = (self._block(index).get_submodule(self.attention.name) for index in self.config.layers)
        return {mixer.name: mixer for mixer in cast(Sequence[MemoryMixer], list(found))}

    def path(self, index: int) -> str:
        """Return the path, in `base` and in the original, of the module that mixes tokens in a block."""
        return f"{self.family.blocks}.{index}.{self.attention.name}"

    def memories(self) -> dict[str, LeveledMemory]:
        """Return nothing: no level of this model learns by the task's gradient while it reads."""
        return {}

    def initial_state(self, batch_size: int) -> ModelState:
        """Return what `batch_size` fresh streams start from: empty memories."""
        zeros = torch.zeros(batch_size, dtype=torch.long, device=self.device)
        fresh = {name: mixer.memory.initial_state(batch_size) for name, mixer in self.mixers().items()}
        return with_layers(ModelState({}, {}, zeros, zeros), fresh)

    def forward(
        self, ids: Tensor, state: ModelState | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, ModelState]:
        """Read tokens; a full pass, any split of it and token by token give the same results.

        Args:
            ids: [B, T].
            state: what earlier tokens left; None starts fresh streams.
            mask: [B, T] bool, True for real tokens; padding may stand left, right or inside and changes nothing.
        Returns:
            logits: [B, T, vocab_size] for the token after each; 0 at padding.
            state: to pass to the next call.
        Raises:
            ValueError: tokens that the vocabulary lacks; shapes or types that do not fit; a state of another model.
        """
        state = self._checked(ids, state, mask)
        if unknown := sorted(set(state.memory) - set(self.mixers())):
            raise ValueError(
                f"the state is another model's: it holds a memory {unknown[0]!r} that this model lacks; "
                "read with the model that wrote it, or pass state=None"
            )
        if mask is None or bool(mask.all()):
            return self._read(ids, state, None)
        return without_padding(self._read, ids, state, mask)

    def tick(
        self, state: ModelState, event: str, rows: Tensor | None = None
    ) -> tuple[ModelState, dict[str, dict[str, Update]]]:
        """Declare an event: "document" empties the memories; any other changes nothing.

        Args:
            state: what the streams have left.
            event: such as "document".
            rows: [B] bool, the rows that it concerns; None means all.
        Returns:
            state: the new state.
            updates: none, since no level learns.
        """
        return with_layers(
            state, {name: mixer.memory.tick(state.layer(name), event, rows) for name, mixer in self.mixers().items()}
        ), {}

    def fingerprint(self) -> str:
        """Return a hash of every weight and of the configuration."""
        return digest({}, json.dumps([base_hash(self.base), self.config.to_dict()], sort_keys=True))

    def save(self, folder: Path | str) -> None:
        """Write the whole hybrid into a folder: weights in safetensors, the configuration in JSON, the tokenizer.

        What the original does not save either, such as the frequencies of rotary positions, is made anew on load.

        Args:
            folder: made when it is missing; `load_replaced` reads it.
        """
        folder, base = Path(folder), cast(Any, self.base)
        folder.mkdir(parents=True, exist_ok=True)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)
        meta = {
            "fingerprint": self.fingerprint(),
            "config": self.config.to_dict(),
            "base": json.loads(base.config.to_json_string(use_diff=False)),
            "tokenizer": self.tokenizer is not None,
        }
        save_tensors(folder / WEIGHTS, _untied(base), meta)
        # written last: a folder with this file is whole
        atomic_write(folder / CONFIG, json.dumps({"format": FORMAT, **meta}, indent=2).encode())

    def _read(self, ids: Tensor, state: ModelState, mask: Tensor | None) -> tuple[Tensor, ModelState]:
        """Run the model over left-aligned rows, from what the state holds."""
        cache = MemoryCache({name: state.layer(name) for name in self.mixers()}, mask)
        to_cache(state.layer(CACHE).context, cache)
        logits, after = self._run(ids, state, mask, cache)
        return logits, with_layers(after, cache.states)

    def _block(self, index: int) -> nn.Module:
        """Return a block."""
        return blocks_of(self.base, self.family)[index]


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


def _untied(base: nn.Module) -> dict[str, Tensor]:
    """Return the weights, each once: a tied one under its first name."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in base.state_dict().items():
        found.setdefault(tensor.data_ptr(), (name, tensor.detach().cpu().contiguous()))
    return dict(found.values())
