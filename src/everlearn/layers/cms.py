"""Two ways to put levels together: in a chain, or side by side.  [NL eq. 70, 73-74]"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from everlearn.layers.continuum import ContinuumMemory
from everlearn.layers.mlp import swiglu
from everlearn.levels.clock import Level
from everlearn.memory.state import Tensors
from everlearn.rules import Rule, gd


class CMS(ContinuumMemory):
    """Chain one MLP per level.  [NL eq. 70, 73]

        y_0 = x;  y_l = y_{l-1} + MLP_l(y_{l-1});  output y_K - x

    With one level this is a plain MLP; with endless periods, a plain chain of them. `ContinuumMemory` says how it is
    built, read and written; `IndependentCMS` and `NestedCMS` put the same levels together in other ways.
    """

    def _read(self, x: Tensor, memory: Tensors) -> Tensor:
        y = x
        for level in self.read_levels:
            y = y + swiglu(y, **self._level_weights(level.name, memory))
        return y - x

    def _links(self) -> dict[str, str]:
        return {}


class IndependentCMS(ContinuumMemory):
    """Add up one MLP per level, each reading the input itself.  [NL eq. 74]

        y = sum_l w_l MLP_l(x)

    No level sees what another has learned, so one can be rolled back or reset without moving the input of the rest.
    The weights w, `mix`, are parameters that training learns and streams share. They start at 1: a sum, so that one
    level is a plain MLP and a level whose last projection is zero changes nothing. The sum of K fresh levels is
    sqrt(K) times as large as one of them; a mean, 1/K, would divide every level's gradient by K instead.

    Args: as of `ContinuumMemory`; the order of the levels changes nothing but rounding.
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
        super().__init__(dim, hidden_dim, levels, chunk_size=chunk_size, rule=rule, max_norm=max_norm, reduce=reduce)
        self.mix = nn.Parameter(torch.ones(len(self.read_levels)))

    def _read(self, x: Tensor, memory: Tensors) -> Tensor:
        outputs = [swiglu(x, **self._level_weights(level.name, memory)) for level in self.read_levels]
        return sum((w * y for w, y in zip(self.mix, outputs, strict=True)), torch.zeros_like(x))

    def _links(self) -> dict[str, str]:
        return {}
