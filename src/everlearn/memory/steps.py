"""One step of a rule in many rows at once, each with its own past."""

from __future__ import annotations

from torch import Tensor

from everlearn.memory.state import where_rows
from everlearn.rules import Rule, Slots


def step_rows(
    rule: Rule, weights: Tensor, grad: Tensor, inputs: Tensor, slots: Slots, fresh: Tensor, eta: Tensor
) -> tuple[Tensor, Slots]:
    """Apply a rule to every row; a row that never stepped begins without slots, also beside rows that did.

    Args:
        rule: see `everlearn.rules`.
        weights: [B, out, in].
        grad: the gradient, same shape.
        inputs: what the weights are multiplied with, [B, T, in].
        slots: what the rule keeps, each [B, ...]; in fresh rows anything.
        fresh: rows that never stepped, [B] bool.
        eta: step sizes, [B, 1, 1].
    Returns:
        weights: [B, out, in].
        slots: each with all B rows.
    """
    if not slots or bool(fresh.all()):
        stepped, kept = rule(weights, grad, inputs, {}, eta=eta)
        return stepped, _whole(kept, len(weights))
    stepped, kept = rule(weights, grad, inputs, slots, eta=eta)
    kept = _whole(kept, len(weights))
    if bool(fresh.any()):
        first, begun = rule(weights, grad, inputs, {}, eta=eta)
        stepped, begun = where_rows(fresh, first, stepped), _whole(begun, len(weights))
        kept = {name: where_rows(fresh, begun[name], old) for name, old in kept.items()}
    return stepped, kept


def _whole(slots: Slots, rows: int) -> Slots:
    """Give every row its own copy of what the rule counts for all of them."""
    return {name: x.expand(rows, *x.shape[1:]) for name, x in slots.items()}


def per_row(x: Tensor) -> Tensor:
    """Return one number per row, [B], as [B, 1, 1]."""
    return x.reshape(-1, 1, 1)
