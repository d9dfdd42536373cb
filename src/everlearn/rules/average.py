"""The bias-corrected average that every rule with a momentum keeps."""

from __future__ import annotations

from torch import Tensor

from everlearn.rules.shapes import one_each
from everlearn.rules.types import Slots


def decaying_average(slots: Slots, name: str, new: Tensor, beta: float, *, mass: str = "mass") -> tuple[Tensor, Slots]:
    """Add a value to a decaying average and correct it for its start at zero.  [NL eq. 33]

        a_t = beta a_{t-1} + (1 - beta) x_t,   returned a_t / (1 - beta^t)

    Args:
        slots: what the rule keeps; a slot that is missing, or zero, has not started.
        name: slot of a.
        new: x_t, any shape.
        beta: share of the old average that is kept, in [0, 1).
        mass: slot of the sum of the averaging weights, 1 - beta^t, [1, ..., 1] or one for each leading dimension.
    Returns:
        average: like `new`.
        slots: the two slots that were updated.
    """
    total = (1 - beta) * new + beta * slots[name] if name in slots else (1 - beta) * new
    grown = mass_after(slots, new, beta, mass=mass)
    return total / grown, {name: total, mass: grown}


def mass_after(slots: Slots, new: Tensor, beta: float, *, mass: str = "mass") -> Tensor:
    """Return the sum of the averaging weights, 1 - beta^t, after one more value."""
    old = slots[mass] if mass in slots else one_each(new)
    return beta * old + (1 - beta)
