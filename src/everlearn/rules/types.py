"""What every rule takes and returns."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

Slots = dict[str, Tensor]


class Rule(Protocol):
    """One step of a memory or an optimizer, as a pure function: `rule(weights, grad, key, slots, *, eta)`.

    The last two dimensions of the weights are the matrix [out, in], and every dimension before them is a batch of
    memories that never mix; a vector counts as one row. `key` is what the layer has read, [..., T, in]; rules that
    need none ignore it, and the others refuse None.

    `slots` holds what the rule keeps between steps, such as a momentum. It starts empty; every tensor in it has the
    leading dimensions of the weights, or ones in their place, and where it is zero it has not started, so a caller may
    mix rows with `torch.where`. A new dictionary is returned, never the old one changed.
    """

    def __call__(
        self, weights: Tensor, grad: Tensor, key: Tensor | None, slots: Slots, *, eta: float | Tensor
    ) -> tuple[Tensor, Slots]:
        """Return the changed weights and the new slots."""
        ...
