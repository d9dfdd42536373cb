"""The Continuum Memory System: a chain of MLPs, each changing at its own pace.  [NL eq. 70, 73]"""

from __future__ import annotations

from torch import Tensor

from everlearn.layers.continuum import ContinuumMemory
from everlearn.layers.mlp import swiglu
from everlearn.memory.state import Tensors


class CMS(ContinuumMemory):
    """Chain one MLP per level.  [NL eq. 70, 73]

        y_0 = x;  y_l = y_{l-1} + MLP_l(y_{l-1});  output y_K - x

    With one level this is a plain MLP; with endless periods, a plain chain of them. `ContinuumMemory` says how it is
    built, read and written.
    """

    def _read(self, x: Tensor, memory: Tensors) -> Tensor:
        y = x
        for level in self.levels:
            y = y + swiglu(y, **self._level_weights(level.name, memory))
        return y - x
