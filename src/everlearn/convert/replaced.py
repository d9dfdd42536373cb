"""A pretrained decoder in which delta memories stand where attention was: read like any model with a state."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from everlearn.convert.adapter import base_hash
from everlearn.convert.cache import Sight, to_cache
from everlearn.convert.families import Family, blocks_of
from everlearn.convert.mixer import Attention, MemoryCache, MemoryMixer
from everlearn.convert.pretrained import CACHE, Pretrained
from everlearn.layers.level_step import Update
from everlearn.layers.leveled import LeveledMemory
from everlearn.memory.codec import digest, save_tensors
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
    `context["cache"]`, where one number for each token of the window is all that is left when every block is replaced.
    Nothing here learns by gradient while it reads; `learn.read` and `Learner` score and generate with it. Its
    parameters are ordinary ones, which `convert.distil` trains; `base(ids)` gives logits without a state.

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


def _untied(base: nn.Module) -> dict[str, Tensor]:
    """Return the weights, each once: a tied one under its first name."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in base.state_dict().items():
        found.setdefault(tensor.data_ptr(), (name, tensor.detach().cpu().contiguous()))
    return dict(found.values())
