"""A pretrained model with levels beside its weights: it reads like the original and learns like a memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from everlearn.convert import adapter
from everlearn.convert.adapter import base_hash
from everlearn.convert.cache import Sight
from everlearn.convert.config import StackConfig
from everlearn.convert.deltas import StackedDeltas
from everlearn.convert.families import Matrix
from everlearn.convert.mount import Mount
from everlearn.convert.pretrained import Pretrained
from everlearn.convert.replaced import ReplacedModel
from everlearn.convert.wrapped import Reading, active
from everlearn.layers.leveled import LeveledMemory
from everlearn.memory.codec import check_fits, digest
from everlearn.memory.state import ModelState

MEMORY = "stack"  # the one memory of a state


class StackedModel(Pretrained):
    """A pretrained decoder whose chosen matrices learn, one set of deltas for each row.  [NL eq. 71, 74]

    Made by `stack_levels`. What a stream has taught is a value, `ModelState`: the deltas and their clocks in
    `memory["stack"]`, keys and values in `context["cache"]`. Keys and values stay as they were computed when the deltas
    change (stale); no gradient flows into them. Nothing is stored on a module: for one call of the model itself, open

        with model.using(state):
            model.base.generate(ids)

    which a thread that is started inside does not inherit; open it there.

    Args:
        base: the Hugging Face model; its parameters take no gradient.
        tokenizer: that of the model, or None where only token numbers are read.
        config: what was chosen.
        matrices: the modules that were chosen, by name.
        deltas: the memory.
        sight: what a token sees of earlier ones.
        hybrid: whose base this is, where memories stand in places of the model.
    """

    def __init__(
        self,
        base: nn.Module,
        tokenizer: Any,
        config: StackConfig,
        matrices: Sequence[Matrix],
        deltas: StackedDeltas,
        sight: Sight,
        hybrid: ReplacedModel | None = None,
    ) -> None:
        super().__init__(base, tokenizer, sight)
        # in a tuple, which hides it from torch: its parameters are those of the base, and count once
        self._hybrid = (hybrid,)
        self.config, self.deltas, self.matrices = config, deltas, tuple(matrices)
        self._mount = Mount(base, matrices, config.form, config.family)
        self._fingerprint: str | None = None  # the base is frozen, and large

    @property
    def chunk_size(self) -> int:
        """Return how many tokens share one gradient anchor."""
        return self.config.chunk_size

    @property
    def hybrid(self) -> ReplacedModel | None:
        """Return the hybrid that levels were stacked on, or None where the base is a plain model."""
        return self._hybrid[0]

    def memories(self) -> dict[str, LeveledMemory]:
        """Return the memories that learn from the task's gradient: the deltas, and those in places of a hybrid."""
        return {MEMORY: self.deltas, **(self.hybrid.memories() if self.hybrid else {})}

    @contextmanager
    def using(self, state: ModelState) -> Iterator[None]:
        """Let `base(...)` and `base.generate(...)` read with what a state has learned; nothing is written.

        Contexts may be nested; the inner one counts. Keys and values of the state are not part of it.

        Args:
            state: with as many rows as the calls have, or a divisor of that (generation repeats each row).
        Raises:
            ValueError: a state of another model, or a model that was unstacked or changed since it was stacked.
        """
        self._mount.check()
        with active(self._mount.owner, self.reading(state)):
            yield

    def reading(self, state: ModelState) -> Reading:
        """Return what the matrices read with a state; one without a memory reads what fresh streams start from."""
        self._check_memories(state)
        layer = state.layer(MEMORY)
        if not layer.memory and not self.deltas.moved:
            return Reading()
        layer = layer if layer.memory else self.deltas.initial_state(1)
        reading = self.config.form.reading(self.matrices, self.deltas.held(layer))
        return replace(reading, merged=self.config.merged if self.config.form.mergeable else False)

    def hidden(
        self, ids: Tensor, state: ModelState | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, ModelState]:
        """Read tokens as `forward` does, and show what the last block's MLP was given: the keys of a slot memory.

        Another thread must not call the base meanwhile: what it reads would be taken for the keys.

        Returns:
            hidden: [B, T, dim], as the model computes it; undefined at padding.
            logits: see `forward`.
            state: see `forward`.
        """
        seen: list[Tensor] = []
        last = self.base.get_submodule(self._last_mlp)
        hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            logits, state = self(ids, state, mask)
        finally:
            hook.remove()
        hidden = seen[0] if seen else logits[..., :0]
        if mask is not None and not bool(mask.all()):
            place = torch.argsort(torch.argsort(~mask, dim=1, stable=True), dim=1)
            hidden = hidden.take_along_dim(place[..., None], 1)
        return hidden, logits, state

    @property
    def _last_mlp(self) -> str:
        """Return the path of the last block's MLP."""
        if (family := self.config.family) is None:
            raise ValueError(
                "the model was stacked by patterns alone, so its last MLP is not known; give stack_levels "
                "family=Family(...)"
            )
        blocks: Any = self.base.get_submodule(family.blocks)
        return f"{family.blocks}.{len(blocks) - 1}.{family.mlp}"

    def fingerprint(self) -> str:
        """Return a hash of the base and of what else decides results; levels' rates are left out."""
        if self._fingerprint is None:
            config = {**self.config.to_dict(), "levels": [level.name for level in self.config.levels], "merged": None}
            described = json.dumps([base_hash(self.base), config], sort_keys=True)
            self._fingerprint = digest(self.deltas.own_starts(), described)
        return self._fingerprint

    def set_starts(self, starts: Mapping[str, Tensor]) -> None:
        """Let fresh streams start from other deltas than none, as a learned start does; see `StackedDeltas.set_starts`.

        The pretrained weights stay as they are. It is another model from here on: states of before do not belong to it.
        """
        self.deltas.set_starts(starts)
        self._fingerprint = None

    def save_adapter(self, folder: Path | str, state: ModelState | None = None) -> None:
        """Write what stacking added into a folder, apart from the base, which is named by its hash.

        `load_adapter` reads it. The matrices stand in a file of safetensors, the rest in one of JSON; both are replaced
        in one step each, and a folder whose files do not belong together is refused.

        Args:
            folder: made when it is missing.
            state: what streams have learned, saved with it; None saves the configuration and the starts alone.
        """
        self._mount.check()
        if state is not None:
            check_fits(state, self.initial_state(state.batch_size), "the state")
        adapter.save(Path(folder), self.base, self.config, self.matrices, self.deltas.own_starts(), state)

    def unstack(self, state: ModelState | None = None) -> nn.Module:
        """Give the pretrained model back, as it was or with what one stream has taught merged into its weights.

        Args:
            state: of one row, whose deltas are added to the weights; None drops every delta.
        Returns:
            the model; this object reads no more.
        Raises:
            ValueError: several rows, a form that is no sum of matrices, or a matrix that is quantised; nothing was
                changed.
        """
        self._mount.check()
        if state is not None and state.batch_size != 1:
            raise ValueError(
                f"the state has {state.batch_size} rows, and weights can take one; pick it with state.rows([0])"
            )
        self._mount.remove({} if state is None else self._mount.merged(self.reading(state)))
        return self.base

    def _reading(self, state: ModelState) -> AbstractContextManager[None]:
        """Return a context inside which the base reads with the deltas of a state."""
        return self.using(state)
