"""Nested levels: each restarts from what the next slower one has learned for it.  [NL eq. 72]"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import Tensor

from everlearn.layers.continuum import ContinuumMemory
from everlearn.layers.mlp import swiglu
from everlearn.levels.clock import Level
from everlearn.memory.state import Tensors


class NestedCMS(ContinuumMemory):
    """Read one MLP, the fastest; the slower levels learn where it starts from.  [NL eq. 72]

        y = MLP_1(x)
        theta_l restarts from theta_{l+1} whenever level l+1 steps

    Every level holds weights of the same one MLP, whose learned start is the only set of parameters. A slower level's
    gradient is the mean over its period of the gradients taken at the fastest level's weights: first order, as in
    FOMAML, so that it moves toward where a fresh fast level would already do well. A step of a level restarts all
    faster ones: weights, collected gradient, clock and what the rule keeps. Resets and `anchor_decay` go to the next
    slower level's weights as well, and those of the slowest level to the learned start. One level is `CMS` with one.

    Unlike `CMS` it costs one MLP to read, however many levels there are, and a level cannot add to what the others
    say: a fast level that restarts has lost what the slower ones did not take over.

    Args: as of `ContinuumMemory`, with the levels from the fastest to the slowest.
    Raises:
        ValueError: also for a period that is no multiple, or not above that of the level before.
    """

    def _links(self) -> dict[str, str]:
        check_nested(self.levels)
        return {fast.name: slow.name for fast, slow in itertools.pairwise(self.levels)}

    def _read(self, x: Tensor, memory: Tensors) -> Tensor:
        y = x + swiglu(x, **self._level_weights(self.levels[0].name, memory))
        return y - x


def check_nested(levels: Sequence[Level]) -> None:
    """Refuse levels of which a faster one would be cut off in the middle of its period.

    Periods in tokens come first and each is a multiple of the one before; then events; then endless periods.

    Args:
        levels: from the fastest to the slowest.
    Raises:
        ValueError: another order, a period that is no multiple, or a running mean.
    """
    for level in levels:
        if level.mean_of is not None:
            raise ValueError(
                f"level {level.name!r} is the mean of {level.mean_of!r}, but nested levels restart from the next "
                "slower one already; give it an update_period, or use CMS"
            )
    for fast, slow in itertools.pairwise(levels):
        if not _follows(fast.update_period, slow.update_period):
            raise ValueError(
                f"level {slow.name!r} has update_period {slow.update_period}, but {fast.name!r}, which restarts from "
                f"it, has {fast.update_period}; order nested levels from fast to slow and give {slow.name!r} a larger "
                "multiple of the period before it, an event after all tokens, or math.inf at the end"
            )


def _follows(fast: int | float | str, slow: int | float | str) -> bool:
    """Tell whether a level with the period `slow` may stand after one with the period `fast`."""
    if fast == slow:
        return fast == math.inf
    if isinstance(fast, str) or isinstance(slow, str):
        return slow == math.inf or (isinstance(slow, str) and fast != math.inf)
    return slow == math.inf or (slow > fast and slow % fast == 0)
