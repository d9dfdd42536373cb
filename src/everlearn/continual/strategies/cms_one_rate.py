"""The control beside the CMS: the same chain, every level at the fastest pace, at a matched rate."""

from __future__ import annotations

from collections.abc import Sequence

from everlearn.levels.clock import LEVEL_CLOCK, Level


def one_rate_levels(eta: float, batch_size: int, steps: Sequence[int] = LEVEL_CLOCK) -> tuple[Level, ...]:
    """Return levels that all step on every batch, each `eta` divided by the steps that its twin lets pass.

    With gradients below the clip a level then moves as far per record as its twin in `step_levels`; only the clock
    differs. So a difference between the two is an effect of update frequency, not of a smaller learning rate. The
    control's `eta` is chosen by the same search as the CMS's own.
    """
    return tuple(Level(f"every_{n}", batch_size, eta * min(steps) / n) for n in steps)
