"""When a memory changes: levels and their clocks.  [NL def. 2]"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Level:
    """One speed of change: how often a component's weights move, and by how much.  [NL def. 2, eq. 71]

    A level is bit-identical between its updates. Levels are given to a memory in their order of application.

    Args:
        name: unique within one memory, such as "fast", "mid" or "slow".
        update_period: real tokens of the row between two updates (>= 1); `math.inf` freezes the level; a word such
            as "session" updates when the caller declares that event (`tick`), with what has accumulated by then.
        eta: inner step size, in units of the clipped gradient; >= 0, and 0 leaves the weights alone.
        anchor_decay: share of the distance to the learned start that each update gives back, in [0, 1).
        reset: event at which the level restarts from its learned start, or None to keep what it learned.
    Raises:
        ValueError: a value outside its range.
    """

    name: str
    update_period: int | float | str
    eta: float = 0.3
    anchor_decay: float = 0.0
    reset: str | None = None

    def __post_init__(self) -> None:
        period = self.update_period
        if isinstance(period, str):
            valid = bool(period) and not period.strip().isdigit()
        else:
            valid = period == math.inf or (period >= 1 and period == int(period))
        if not valid:
            raise ValueError(
                f"update_period {period!r} of level {self.name!r} is not a whole number of tokens; "
                "give an integer >= 1, math.inf to freeze the level, or the name of an event"
            )
        if self.reset is not None and not isinstance(self.reset, str):
            raise ValueError(f"reset {self.reset!r} of level {self.name!r} is no event; give a word such as 'document'")
        if not (math.isfinite(self.eta) and self.eta >= 0):
            raise ValueError(f"eta {self.eta} of level {self.name!r} must be finite and >= 0; 0 freezes the level")
        if not 0 <= self.anchor_decay < 1:
            raise ValueError(f"anchor_decay {self.anchor_decay} of level {self.name!r} must lie in [0, 1); try 0.02")

    def due(self, tokens: Tensor, event: str | None = None) -> Tensor:
        """Tell which rows update now.

        Args:
            tokens: real tokens that each row has accumulated since the level's last update, [B].
            event: the event being declared, or None while tokens are being read.
        Returns:
            [B] bool; a row that has accumulated nothing is never due.
        """
        if isinstance(self.update_period, str):
            ready = event == self.update_period
            return (tokens > 0) & ready
        if event is not None or self.update_period == math.inf:
            return torch.zeros_like(tokens, dtype=torch.bool)
        return tokens >= self.update_period


def check_levels(levels: Sequence[Level], chunk_size: int) -> tuple[Level, ...]:
    """Return the levels as a tuple once they fit together.

    Args:
        levels: in order of application.
        chunk_size: tokens that share one gradient anchor.
    Raises:
        ValueError: no level, a name given twice, or a chunk_size that does not divide an update_period.
    """
    if not levels:
        raise ValueError("no level was given; give at least one, such as Level('fast', update_period=64)")
    names = [level.name for level in levels]
    for name in names:
        if names.count(name) > 1 or not name or "." in name:
            raise ValueError(f"level name {name!r} must be unique, not empty and without a dot; got {names}")
    for level in levels:
        period = level.update_period
        if isinstance(period, str) or period == math.inf or period % chunk_size == 0:
            continue
        divisors = [d for d in range(1, int(period) + 1) if period % d == 0]
        near = ", ".join(str(d) for d in sorted(sorted(divisors, key=lambda d: abs(d - chunk_size))[:3]))
        raise ValueError(
            f"chunk_size {chunk_size} does not divide update_period {period} of level {level.name!r}; "
            f"choose a divisor ({near}) or set update_period={math.ceil(period / chunk_size) * chunk_size}"
        )
    return tuple(levels)
