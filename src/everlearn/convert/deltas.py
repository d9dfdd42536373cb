"""The deltas of a stacked model: one memory whose parts are the chosen matrices.  [NL eq. 71]"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from everlearn.convert.families import Matrix
from everlearn.convert.forms import Form
from everlearn.layers.leveled import LeveledMemory
from everlearn.levels import Component, Level
from everlearn.memory.state import LayerState, Tensors
from everlearn.rules import Rule, gd


class StackedDeltas(LeveledMemory):
    """Hold what every level has added to the chosen matrices; the pretrained weights are not touched.

    Args:
        matrices: the chosen ones.
        form: what a level adds to each of them.
        levels: see `LeveledMemory`, as `chunk_size`, `rule` and `max_norm`.
        dtype: of the deltas, at least float32.
        device: where the model is.
    """

    def __init__(
        self,
        matrices: Sequence[Matrix],
        form: Form,
        levels: Sequence[Level],
        *,
        chunk_size: int,
        rule: Rule = gd,
        max_norm: float = 1.0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(levels, chunk_size=chunk_size, rule=rule, max_norm=max_norm)
        self._shapes: dict[str, tuple[int, int]] = {}
        for matrix in matrices:
            for part, start in form.starts(matrix).items():
                zero = torch.zeros(1, 1) if isinstance(start, tuple) else start
                self.register_buffer(f"start{len(self._shapes)}", zero.to(device, dtype))
                self._shapes[part] = start if isinstance(start, tuple) else (start.shape[0], start.shape[1])
        self._own = frozenset(self.own_starts())

    def learned_start(self, level: str) -> Mapping[str, Tensor]:
        """Return what every level starts from; zeros take no room."""
        starts = {}
        for (part, shape), start in zip(self._shapes.items(), self.buffers(recurse=False), strict=True):
            # a model that is cast to bfloat16 keeps deltas that small steps can move
            wide = start if start.dtype in (torch.float32, torch.float64) else start.float()
            starts[part] = wide.expand(shape)
        return starts

    def own_starts(self) -> Tensors:
        """Return the starts that are not zero, part -> [out, in], for a file."""
        own = dict(zip(self._shapes, self.buffers(recurse=False), strict=True))
        return {part: start for part, start in own.items() if start.shape == self._shapes[part]}

    def set_starts(self, starts: Mapping[str, Tensor]) -> None:
        """Take over the starts that `own_starts` gave, or others, part -> [out, in].

        Raises:
            ValueError: a part that is not here, or of another size; nothing was changed.
        """
        for part, value in starts.items():
            if value.shape != self._shapes.get(part):
                here = f"{self._shapes[part]} here" if part in self._shapes else f"none of {list(self._shapes)}"
                raise ValueError(
                    f"start {part!r} of shape {tuple(value.shape)} does not fit: it is {here}; give starts of this "
                    "model's own matrices"
                )
        for (i, part), start in zip(enumerate(self._shapes), list(self.buffers(recurse=False)), strict=True):
            if part in starts:
                own = starts[part].detach().to(start).clone(memory_format=torch.contiguous_format)
                self.register_buffer(f"start{i}", own)

    @property
    def moved(self) -> bool:
        """Tell whether a fresh stream starts elsewhere than at the pretrained model."""
        return not self._own >= self.own_starts().keys()

    def held(self, state: LayerState) -> list[Tensors]:
        """Return what each level that is read holds, part -> [B, out, in]; a frozen level holds its start.

        Raises:
            ValueError: the state is not one of this memory.
        """
        weights, rows = self.weights(state), len(next(iter(state.memory.values())))
        learning = [level.name for level in self.learning_levels]
        return [
            {part: weights[f"{level.name}.{part}"] for part in self._shapes}
            if level.name in learning
            else {part: start.expand(rows, *start.shape) for part, start in self.learned_start(level.name).items()}
            for level in self.read_levels
        ]

    def _links(self) -> dict[str, str]:
        return {}

    def components(self) -> list[Component]:
        """Return each level's deltas per row, which start from nothing that training has learned."""
        return self.level_components("matrix deltas", {})
