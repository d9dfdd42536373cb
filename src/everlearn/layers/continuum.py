"""What every Continuum Memory System shares: MLPs whose weights change in levels.  [NL eq. 71]"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from everlearn.layers.inputs import check_input
from everlearn.layers.leveled import LeveledMemory
from everlearn.layers.mlp import SwiGLU
from everlearn.levels.clock import Level
from everlearn.levels.component import Component
from everlearn.memory.state import LayerState, Tensors
from everlearn.rules import Rule, gd


class ContinuumMemory(LeveledMemory, ABC):
    """MLPs that change at paces of their own; between its updates a level is bit-identical.  [NL eq. 71]

    The parameters hold what was learned before, the state what its stream has taught. How the levels make one output
    is what a subclass says; how they learn is `LeveledMemory`'s:

        state = cms.track(state)                                  # the weights as leaves of a graph
        y, _ = cms(x, state)                                      # reads only
        grads = torch.autograd.grad(loss, list(cms.weights(state).values()))
        state = cms.accumulate(state, grads, tokens)              # MEAN gradients and how many tokens they average
        state, updates = cms.write(state)                         # the levels that are due step

    Args:
        dim: size of the input and of the output.
        hidden_dim: hidden size of each level's MLP.
        levels, chunk_size, rule, max_norm, reduce: see `LeveledMemory`.
    Raises:
        ValueError: levels that do not fit chunk_size or each other, or another word for `reduce`.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        levels: Sequence[Level],
        *,
        chunk_size: int = 64,
        rule: Rule = gd,
        max_norm: float = 1.0,
        reduce: str = "mean",
    ) -> None:
        super().__init__(levels, chunk_size=chunk_size, rule=rule, max_norm=max_norm, reduce=reduce)
        self.dim = dim
        owners = [level.name for level in self.read_levels if level.name not in self._slower]
        self.mlps = nn.ModuleDict({name: SwiGLU(dim, hidden_dim) for name in owners})

    def forward(
        self, x: Tensor, state: LayerState | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, LayerState]:
        """Read the levels; nothing is written.

        Args:
            x: [B, T, dim].
            state: what the streams have taught; None or an empty state reads the learned parameters.
            mask: accepted like every layer's; each token is read by itself, so padding needs none.
        Returns:
            y: [B, T, dim].
            state: as given.
        Raises:
            ValueError: an input or a state that does not fit.
        """
        state = state or LayerState()
        check_input(x, self.dim, None, state)
        weights = self.weights(state) if state.memory else {}
        own = next(iter(weights.values()), next(self.parameters())).dtype
        if x.dtype != own and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(f"input is {x.dtype}, but the weights are {own}; convert it, or run it under autocast")
        return self._read(x, state.memory), state

    @abstractmethod
    def _read(self, x: Tensor, memory: Tensors) -> Tensor:
        """Map x, [B, T, dim], to [B, T, dim] with the weights that `memory` and the parameters hold."""

    def learned_start(self, level: str) -> Mapping[str, Tensor]:
        """Return the parameters of the level's MLP."""
        mlp = self.mlps[level]
        assert isinstance(mlp, SwiGLU)
        return mlp.weights()

    def components(self) -> list[Component]:
        """Return each level's weights per row, and the parameters; endless levels have no rows."""
        learns = [level.name for level in self.learning_levels]
        own = {level: f"mlps.{self._slowest(level)}" for level in learns}
        slower = {level: name for level, name in self._slower.items() if name in learns}
        found = self.level_components("MLP memory", {**own, **slower})
        used = {self._slowest(level) for level in learns}
        for name in self.mlps:
            kind = "learned start" if name in used else "MLP"
            found.append(Component(name=f"mlps.{name}", kind=kind, owns=(f"mlps.{name}",)))
        own_names = tuple(name for name, _ in self.named_parameters(recurse=False))
        return [*found, *([Component(name="mix", kind="mixing weights", owns=own_names)] if own_names else [])]

    def _slowest(self, level: str) -> str:
        """Return the level whose parameters a level starts from in the end."""
        level = self._followed(level)
        while level in self._slower:
            level = self._slower[level]
        return level
