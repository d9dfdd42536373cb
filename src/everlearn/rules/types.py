"""What every rule takes and returns."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

Slots = dict[str, Tensor]


class Rule(Protocol):
    """One step of a memory or an optimizer, as a pure function: `rule(weights, grad, key, slots, *, eta)`.

    `slots` holds what the rule keeps between steps, such as a momentum; it starts empty, has the shape of the weights
    or one that broadcasts against them, and a new dictionary is returned, never the old one changed.
    """

    def __call__(
        self, weights: Tensor, grad: Tensor, key: Tensor | None, slots: Slots, *, eta: float | Tensor
    ) -> tuple[Tensor, Slots]:
        """Return the changed weights and the new slots."""
        ...
