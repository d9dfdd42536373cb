"""Where two memories of one model differ."""

from __future__ import annotations

from everlearn.memory.state import ModelState
from everlearn.models.protocol import TextModel


def changes(model: TextModel, state: ModelState, other: ModelState | None = None) -> dict[str, list[float]]:
    """Return how far two states are apart in every matrix that a level holds.

    Args:
        model: whose states they are.
        state: [B, ...].
        other: with as many rows; None compares with a fresh start.
    Returns:
        "memory/level.part" -> Frobenius norm of the difference in each row; gradients, clocks and what a rule keeps
        are left out.
    """
    fresh = model.initial_state(state.batch_size)
    other = other or fresh
    found: dict[str, list[float]] = {}
    for name, memory in model.memories().items():
        levels = tuple(f"{level.name}." for level in memory.learning_levels)
        for leaf in fresh.memory.get(name, {}):
            if leaf.startswith(levels) and not leaf.endswith((".grad", ".tokens")):
                a, b = (each.memory.get(name, fresh.memory[name])[leaf] for each in (state, other))
                found[f"{name}/{leaf}"] = (a.detach() - b.detach()).double().flatten(1).norm(dim=1).tolist()
    return found
