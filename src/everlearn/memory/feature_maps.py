"""Feature maps: what a matrix memory sees of a key before its one linear step."""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class FeatureMap(Protocol):
    """phi: a function of the last dimension that can say how long its result is."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """Map [..., D] to [..., size(D)]."""
        ...

    def size(self, dim: int) -> int:
        """Return the length of phi(x) for a vector of length dim."""
        ...


@dataclass(frozen=True)
class Elementwise:
    """Apply one function to every coordinate.

    Args:
        function: maps a tensor to one of the same shape.
    """

    function: Callable[[Tensor], Tensor]

    def __call__(self, inputs: Tensor) -> Tensor:
        """Map [..., D] to [..., D]."""
        return self.function(inputs)

    def size(self, dim: int) -> int:
        """Return dim."""
        return dim


def _same(inputs: Tensor) -> Tensor:
    return inputs


def _elu1(inputs: Tensor) -> Tensor:
    return F.elu(inputs) + 1


identity = Elementwise(_same)
"""phi(x) = x."""

elu1 = Elementwise(_elu1)
"""phi(x) = elu(x) + 1: all coordinates positive, as linear attention has them."""


@dataclass(frozen=True)
class Polynomial:
    """Map a vector to all its monomials up to a degree, weighted so that products become a power.

        <phi(x), phi(y)> = (1 + <x, y>)^degree

    A matrix memory of phi(k) is a polynomial one of k: it separates keys that a linear one confuses, at the price of
    binomial(dim + degree, degree) columns. A unit key has |phi(k)|^2 = 2^degree, so the step size has to be that much
    smaller than for the key itself, or the memory's `implicit` switch has to be on.

    Args:
        degree: highest power, >= 1.
    Raises:
        ValueError: degree is below 1.
    Example:
        >>> phi = Polynomial(2)
        >>> x, y = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 1.0])
        >>> round((phi(x) @ phi(y)).item(), 4), phi.size(2)
        (12.25, 6)
    """

    degree: int

    def __post_init__(self) -> None:
        if self.degree < 1:
            raise ValueError(f"degree {self.degree} is below 1; give a whole number >= 1, such as 2")

    def __call__(self, inputs: Tensor) -> Tensor:
        """Map [..., D] to [..., size(D)]."""
        index, weight = _monomials(inputs.shape[-1], self.degree)
        with_one = F.pad(inputs, (0, 1), value=1.0)
        factors = with_one[..., torch.tensor(index, device=inputs.device)]
        return factors.prod(-1) * torch.tensor(weight, dtype=inputs.dtype, device=inputs.device)

    def size(self, dim: int) -> int:
        """Return binomial(dim + degree, degree)."""
        return math.comb(dim + self.degree, self.degree)


@functools.lru_cache(maxsize=32)
def _monomials(dim: int, degree: int) -> tuple[tuple[tuple[int, ...], ...], tuple[float, ...]]:
    """Return the factors of every monomial of [x, 1] and the root of how often the power of a sum holds it."""
    index = tuple(itertools.combinations_with_replacement(range(dim + 1), degree))
    orders = (math.prod(math.factorial(n) for n in Counter(one).values()) for one in index)
    return index, tuple(math.sqrt(math.factorial(degree) / order) for order in orders)
