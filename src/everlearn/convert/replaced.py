"""A pretrained decoder in which memories stand where attentions and MLPs were: read like any model with a state."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

from torch import nn

from everlearn.convert import hybrid_files
from everlearn.convert.attention import Attention
from everlearn.convert.cache import Sight
from everlearn.convert.families import Family
from everlearn.convert.in_place import InPlace
from everlearn.convert.pretrained import Pretrained
from everlearn.convert.replace_config import ATTENTION, ReplaceConfig, place_of
from everlearn.convert.substitutes import Continuum
from everlearn.layers.continuum import ContinuumMemory
from everlearn.layers.leveled import LeveledMemory
from everlearn.levels import Level
from everlearn.memory.state import ModelState


class ReplacedModel(Pretrained):
    """A pretrained decoder in which memories stand in the places of some attentions and MLPs.

    Made by `replace_blocks`. When every attention is replaced, one number for each token of the window is all that is
    left of keys and values. A Continuum Memory System in the place of an MLP learns what the model reads; a delta
    memory learns nothing by gradient while it reads. `learn.read` and `Learner` read, score and generate with it, and
    `stack_levels` lets the MLPs that are left learn too. Its parameters are ordinary ones, which `convert.distil`
    trains; `base(ids)` gives logits without a state.

    Args:
        base: the hybrid; it remembers nothing between calls by itself (`use_cache` is off).
        tokenizer: that of the model, or None where only token numbers are read.
        config: what stands where.
        family: where the model keeps its blocks.
        attention: where a block keeps its attention; None where no attention was replaced.
        sight: what a token sees of earlier ones in the blocks that keep attention.
    """

    def __init__(
        self,
        base: nn.Module,
        tokenizer: Any,
        config: ReplaceConfig,
        family: Family,
        attention: Attention | None,
        sight: Sight,
    ) -> None:
        super().__init__(base, tokenizer, sight)
        self.config, self.family, self.attention = config, family, attention

    @property
    def chunk_size(self) -> int:
        """Return how many tokens share one gradient anchor; it changes no result where nothing learns by gradient."""
        return self.config.chunk_size

    def places(self) -> dict[str, InPlace]:
        """Return what stands in the place of something, by the name of that place, such as "block.0.attention"."""
        return dict(self._places)

    def path(self, name: str) -> str:
        """Return the path, in `base` and in the original, of the module in a place, such as "block.0.attention".

        Raises:
            ValueError: the place holds no memory.
        """
        if name not in self._places:
            raise ValueError(
                f"{name!r} holds no memory; the replaced places are {list(self._places)}; name one of them"
            )
        index, place = place_of(name)
        own = self.attention.name if place == ATTENTION and self.attention else self.family.mlp
        return f"{self.family.blocks}.{index}.{own}"

    def memories(self) -> dict[str, LeveledMemory]:
        """Return the memories that learn by the task's gradient while the model reads: those with levels that step."""
        found = {name: place.memory for name, place in self._places.items()}
        return {name: m for name, m in found.items() if isinstance(m, LeveledMemory) and m.learning_levels}

    def set_levels(self, levels: Mapping[str, Sequence[Level]]) -> None:
        """Give what learns in places other periods and step sizes; what streams have learned still fits.

        Args:
            levels: name of a place -> its levels, with the names that they had; places that are not named stay.
        Raises:
            ValueError: a place that does not learn, or other names of levels; nothing was changed.
        """
        learning = self.memories()
        if unknown := sorted(set(levels) - set(learning)):
            raise ValueError(
                f"{unknown[0]!r} is no place that learns while the model reads; these are {list(learning)}; name them"
            )
        rated = {name: learning[name].with_levels(own) for name, own in levels.items()}
        mlp = dict(self.config.mlp)
        for name, memory in rated.items():
            index, _ = place_of(name)
            mlp[index] = dataclasses.replace(cast(Continuum, mlp[index]), levels=memory.levels)
            self._places[name].memory = cast(ContinuumMemory, memory)
        self.config = dataclasses.replace(self.config, mlp=mlp)

    def fingerprint(self) -> str:
        """Return a hash of every weight and of the configuration; levels' rates are left out."""
        return hybrid_files.fingerprint(self.base, self.config)

    def save(self, folder: Path | str) -> None:
        """Write the whole hybrid into a folder: weights in safetensors, the configuration in JSON, the tokenizer.

        The original is not needed again; its hash is kept, so that no other model is taken for it. What the original
        does not save either, such as the frequencies of rotary positions, is made anew on load.

        Args:
            folder: made when it is missing; `load_replaced` reads it.
        """
        hybrid_files.save(folder, self.base, self.tokenizer, self.config)

    def _reading(self, state: ModelState) -> AbstractContextManager[None]:
        """Return an empty context: what was learned reaches its places by the cache."""
        return nullcontext()
