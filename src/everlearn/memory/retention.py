"""Retention: what pulls a memory back while it is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Retention(Protocol):
    """Two hooks around the rule's step, `new = after(rule(before(old, start), grad(old)), old)`.

    The gradient is taken at `old`, so what `before` does multiplies the memory alone and not the new error.
    """

    def before(self, weights: Tensor, start: Tensor) -> Tensor:
        """Return what the rule steps from; weights [B, ...], start is the learned start, [...]."""
        ...

    def after(self, new: Tensor, old: Tensor) -> Tensor:
        """Return what is stored; new and old are [B, ...]."""
        ...


@dataclass(frozen=True)
class Keep:
    """Keep everything: nothing but the rule changes the memory."""

    def before(self, weights: Tensor, start: Tensor) -> Tensor:
        """Return the weights as they are."""
        return weights

    def after(self, new: Tensor, old: Tensor) -> Tensor:
        """Return the new weights as they are."""
        return new


@dataclass(frozen=True)
class Decay:
    """Keep a share alpha of the memory with every write.  [NL eq. 92]

        M_t = alpha_t M_{t-1} - eta_t grad L(M_{t-1})

    alpha multiplies the memory alone, not the error, so with the L2 objective the eigenvalue along the key is
    alpha - eta. All that is not written again fades, the learned start too; `Anchor` fades toward that start.

    Args:
        alpha: share that is kept, in [0, 1]; `write` takes one per token instead.
    Raises:
        ValueError: alpha outside [0, 1].
    """

    alpha: float | Tensor = 0.99

    def __post_init__(self) -> None:
        if not isinstance(self.alpha, Tensor) and not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha {self.alpha} is outside [0, 1]; 1 keeps everything, try 0.99")

    def before(self, weights: Tensor, start: Tensor) -> Tensor:
        """Return alpha times the weights."""
        return self.alpha * weights

    def after(self, new: Tensor, old: Tensor) -> Tensor:
        """Return the new weights as they are."""
        return new


@dataclass(frozen=True)
class Anchor:
    """Give back a share of the distance to the learned start with every write.

        M_t = M_{t-1} + decay (M_0 - M_{t-1}) - eta_t grad L(M_{t-1})

    A memory that is left alone returns to what was meta-learned, and a two-layer memory cannot die.

    Args:
        decay: share of the distance, in [0, 1].
    Raises:
        ValueError: decay outside [0, 1].
    """

    decay: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay {self.decay} is outside [0, 1]; 0 keeps everything, try 0.01")

    def before(self, weights: Tensor, start: Tensor) -> Tensor:
        """Return the weights, moved toward the start."""
        return weights + self.decay * (start - weights)

    def after(self, new: Tensor, old: Tensor) -> Tensor:
        """Return the new weights as they are."""
        return new


@dataclass(frozen=True)
class TrustRegion:
    """Bound how far one write may move a memory, whatever the input.

        |M_t - M_{t-1}|_F <= radius, per row and tensor

    Args:
        radius: Frobenius norm of a step, > 0.
    Raises:
        ValueError: radius is not above zero.
    """

    radius: float = 1.0

    def __post_init__(self) -> None:
        if not self.radius > 0:
            raise ValueError(f"radius {self.radius} is not above zero, so nothing could be written; try 1.0")

    def before(self, weights: Tensor, start: Tensor) -> Tensor:
        """Return the weights as they are."""
        return weights

    def after(self, new: Tensor, old: Tensor) -> Tensor:
        """Return the old weights plus the step, shortened to the radius where it is longer."""
        step = new - old
        square = step.square().flatten(1).sum(1).reshape(-1, *[1] * (new.ndim - 1))
        outside = square > self.radius**2
        # a root is taken only where it is needed: at a step of zero its derivative is infinite
        scale = self.radius * torch.where(outside, square, 1).rsqrt()
        return torch.where(outside, old + scale * step, new)
