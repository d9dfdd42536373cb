"""How levels stand beside pretrained weights so that nothing changes at first.  [NL eq. 73-74]"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from everlearn.convert.families import Family, Matrix
from everlearn.convert.wrapped import Reading

Hook = Callable[..., Any]
Levels = Sequence[Mapping[str, Tensor]]


@dataclass(frozen=True)
class Form(ABC):
    """One way to add levels to a pretrained model."""

    mergeable: ClassVar[bool] = True

    @abstractmethod
    def starts(self, matrix: Matrix) -> dict[str, Tensor | tuple[int, int]]:
        """Return what a level starts from: part -> matrix [out, in], or the shape of one that is zero."""

    @abstractmethod
    def reading(self, matrices: Sequence[Matrix], levels: Levels) -> Reading:
        """Return what the matrices read.

        Args:
            matrices: the chosen ones.
            levels: part -> [B, out, in] of each level that is read.
        """

    def exact(self, count: int) -> bool:
        """Tell whether logits are equal bit for bit, and not only to rounding, while `count` levels have not moved."""
        return True

    def hooks(self, model: nn.Module, family: Family | None, blocks: Sequence[int]) -> list[tuple[nn.Module, Hook]]:
        """Return (module, what is done to its output) beyond the matrices; the hook also takes `owner`."""
        return []


@dataclass(frozen=True)
class Additive(Form):
    """Add every level to the pretrained matrix: W0 + D_1 + ... + D_K, all D = 0 at first.  [NL eq. 74]

    The independent CMS with the sum as its aggregation, at the cost of one more product however many levels there are;
    the gradient is taken once, with respect to the sum.
    """

    def starts(self, matrix: Matrix) -> dict[str, Tensor | tuple[int, int]]:
        """Return one zero matrix of the same size."""
        return {matrix.name: (matrix.out_features, matrix.in_features)}

    def reading(self, matrices: Sequence[Matrix], levels: Levels) -> Reading:
        """Return the sum of the levels for each matrix."""
        return Reading({m.name: (summed([level[m.name] for level in levels]),) for m in matrices})


def summed(tensors: Sequence[Tensor]) -> Tensor:
    """Return the sum, in pairs: equal terms whose number is a power of two then add up without rounding."""
    while len(tensors) > 1:
        tensors = [sum(tensors[i + 1 : i + 2], tensors[i]) for i in range(0, len(tensors), 2)]
    return tensors[0]


additive = Additive()
FORMS: Mapping[str, Form] = {"additive": additive}
