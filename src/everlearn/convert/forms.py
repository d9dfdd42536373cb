"""How levels stand beside pretrained matrices so that nothing changes at first.  [NL eq. 74]"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from everlearn.convert.families import Family, Matrix
from everlearn.convert.wrapped import Owner, Reading

Start = Tensor | tuple[int, int]
Levels = Sequence[Mapping[str, Tensor]]


@dataclass(frozen=True)
class Form(ABC):
    """One way to add levels to a pretrained model; `copies` has those that add MLPs instead of matrices."""

    mergeable: ClassVar[bool] = True  # what was learned is a sum of matrices, which one matrix equals

    @abstractmethod
    def starts(self, matrix: Matrix) -> dict[str, Start]:
        """Return what a level starts from: part -> matrix [out, in], or the shape of one that is zero."""

    @abstractmethod
    def reading(self, matrices: Sequence[Matrix], levels: Levels) -> Reading:
        """Return what the matrices read.

        Args:
            matrices: the chosen ones.
            levels: part -> [B, out, in] for each level that is read.
        """

    def exact(self, count: int) -> bool:
        """Tell whether `count` levels that have not moved leave every bit alone, or round."""
        return True

    def attach(
        self, model: nn.Module, family: Family | None, matrices: Sequence[Matrix], owner: Owner
    ) -> list[RemovableHandle]:
        """Hook into the model what goes beyond the matrices themselves: nothing, for a sum of matrices."""
        return []


@dataclass(frozen=True)
class Additive(Form):
    """Add every level to the pretrained matrix: W0 + D_1 + ... + D_K, all D = 0 at first.  [NL eq. 74]

    The independent CMS with the sum as its aggregation, at the cost of one more product however many levels there are;
    the gradient is that of the sum, taken once.
    """

    def starts(self, matrix: Matrix) -> dict[str, Start]:
        """Return one zero matrix of the same size."""
        return {matrix.name: (matrix.out_features, matrix.in_features)}

    def reading(self, matrices: Sequence[Matrix], levels: Levels) -> Reading:
        """Return the sum of the levels for each matrix."""
        return Reading({m.name: (summed([level[m.name] for level in levels]),) for m in matrices})


@dataclass(frozen=True)
class LowRank(Form):
    """Add a product of two thin matrices for every level: W0 + sum_l B_l A_l, B = 0 and A random at first.

    Its state is smaller by rank (1 / out + 1 / in), but with plain gradient steps it was measured to gain about half
    as much: B = 0 makes the first steps of A nothing. Learning in full and storing at a low rank keeps nearly all.

    Args:
        rank: of each level's product, >= 1.
    Raises:
        ValueError: a rank below 1.
    """

    rank: int = 8

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"rank {self.rank!r} is no whole number >= 1; 8 and 32 were measured")

    def starts(self, matrix: Matrix) -> dict[str, Start]:
        """Return B = 0 and an A that depends on the name of the matrix alone, entries of variance 1 / in."""
        generator = torch.Generator().manual_seed(crc32(matrix.name.encode()))
        a = torch.randn(self.rank, matrix.in_features, generator=generator) / matrix.in_features**0.5
        return {f"{matrix.name}.b": (matrix.out_features, self.rank), f"{matrix.name}.a": a}

    def reading(self, matrices: Sequence[Matrix], levels: Levels) -> Reading:
        """Return the factors of all levels side by side, which multiply to the sum of their products."""
        return Reading(
            {
                m.name: (
                    torch.cat([level[f"{m.name}.b"] for level in levels], 2),
                    torch.cat([level[f"{m.name}.a"] for level in levels], 1),
                )
                for m in matrices
            }
        )


def summed(tensors: Sequence[Tensor]) -> Tensor:
    """Return the sum, taken in pairs: a power of two of equal terms adds up without rounding."""
    while len(tensors) > 1:
        tensors = [sum(tensors[i + 1 : i + 2], tensors[i]) for i in range(0, len(tensors), 2)]
    return tensors[0]


additive = Additive()
low_rank = LowRank()
