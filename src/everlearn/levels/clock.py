"""When a memory changes: levels and their clocks.  [NL def. 2]"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# the published clock in optimizer steps, from the fastest level to the slowest
LEVEL_CLOCK = (1, 4, 16, 64)


@dataclass(frozen=True)
class Level:
    """One speed of change: how often a component's weights move, and by how much.  [NL def. 2, eq. 71]

    A level is bit-identical between its updates. Levels are given to a memory in their order of application.

    A level with `mean_of` follows no gradient and is not read: it is the running mean of the weights of another level,

        m <- decay m + (1 - decay) theta       at every update of that level,

    which then restarts from m, and not from its learned start, at its own `reset`:

        Level("fast", 128, eta=0.9, anchor_decay=0.02, reset="document"), Level("slow", mean_of="fast", decay=0.97)

    Periods alone do not prevent forgetting: on a stream of five documents three levels with periods of 128, 512 and
    2048 tokens and equal steps lost more of what was known before than one level did, and every one of them lost to
    small steps of all weights (RESULTS.md and LOG.md have such figures). What was measured to help is this pair: the
    fast level follows the document and starts the next one from the mean, so that a document moves what lasts by a
    part of what it moves while it is read. Keep a control with a smaller `eta` beside any such claim.

    Args:
        name: unique within one memory, such as "fast", "mid" or "slow".
        update_period: real tokens of the row between two updates (>= 1); `math.inf` freezes the level; a word such
            as "session" updates when the caller declares that event (`tick`), with what has accumulated by then.
            Left out for a level with `mean_of`, which moves whenever the other does.
        eta: inner step size, in units of the clipped gradient; >= 0, and 0 leaves the weights alone. Has no meaning
            with `mean_of`.
        anchor_decay: share of the distance to the learned start that each update gives back, in [0, 1).
        reset: event at which the level restarts from its learned start (or from its mean), or None to keep what it
            learned.
        finish: event at which a period that is not over takes its share of a step, before anything restarts, such as
            "document"; see `share`. None lets it wait for more tokens, and a `reset` drops what it has. Needs a period
            in tokens.
        mean_of: name of the level whose running mean this one is, or None for a level that follows a gradient.
        decay: share of a running mean that one update keeps, in [0, 1); 0 copies the other level. Has no meaning
            without `mean_of`.
    Raises:
        ValueError: a value outside its range.
    """

    name: str
    update_period: int | float | str = 0
    eta: float = 0.3
    anchor_decay: float = 0.0
    reset: str | None = None
    mean_of: str | None = None
    decay: float = 0.97
    finish: str | None = None

    def __post_init__(self) -> None:
        if self.mean_of is not None:
            self._check_mean()
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
        for field, event in (("reset", self.reset), ("finish", self.finish)):
            if event is not None and not isinstance(event, str):
                raise ValueError(
                    f"{field} {event!r} of level {self.name!r} is no event; give a word such as 'document'"
                )
        if self.finish is not None and self.mean_of is None and (isinstance(period, str) or period == math.inf):
            raise ValueError(
                f"finish {self.finish!r} of level {self.name!r} needs a period in tokens, and update_period is "
                f"{period!r}; give an integer >= 1, or leave finish out"
            )
        if not (math.isfinite(self.eta) and self.eta >= 0):
            raise ValueError(f"eta {self.eta} of level {self.name!r} must be finite and >= 0; 0 freezes the level")
        if not 0 <= self.anchor_decay < 1:
            raise ValueError(f"anchor_decay {self.anchor_decay} of level {self.name!r} must lie in [0, 1); try 0.02")

    def _check_mean(self) -> None:
        """Refuse what a running mean has no use for; its own period is endless."""
        if self.update_period not in (0, math.inf):
            raise ValueError(
                f"level {self.name!r} has update_period {self.update_period!r} and mean_of={self.mean_of!r}; a running "
                "mean moves when the other level does: leave update_period out, or drop mean_of"
            )
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay {self.decay} of level {self.name!r} must lie in [0, 1); try 0.97")
        if self.anchor_decay:
            raise ValueError(
                f"anchor_decay {self.anchor_decay} of level {self.name!r} has no effect on a running mean; set it on "
                f"level {self.mean_of!r} instead"
            )
        if self.finish is not None:
            raise ValueError(
                f"finish {self.finish!r} of level {self.name!r} has no effect on a running mean, which has no period; "
                f"set it on level {self.mean_of!r} instead"
            )
        object.__setattr__(self, "update_period", math.inf)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data; an endless period becomes the word "never"."""
        data = dataclasses.asdict(self)
        if self.update_period == math.inf:
            data["update_period"] = "never"
        if self.mean_of is None:
            del data["mean_of"], data["decay"]
        if self.finish is None:
            del data["finish"]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Level:
        """Rebuild a level from `to_dict`.

        Raises:
            ValueError: a value outside its range.
        """
        period = math.inf if data["update_period"] == "never" else data["update_period"]
        return cls(**{**data, "update_period": period})

    def due(self, tokens: Tensor, event: str | None = None) -> Tensor:
        """Tell which rows update now.

        Args:
            tokens: real tokens that each row has accumulated since the level's last update, [B].
            event: the event being declared, or None while tokens are being read.
        Returns:
            [B] bool; a row that has accumulated nothing is never due.
        """
        if event is not None and event == self.finish:
            return tokens > 0
        if isinstance(self.update_period, str):
            ready = event == self.update_period
            return (tokens > 0) & ready
        if event is not None or self.update_period == math.inf:
            return torch.zeros_like(tokens, dtype=torch.bool)
        return tokens >= self.update_period

    def share(self, tokens: Tensor, event: str | None) -> Tensor | None:
        """Return how much of a step is taken, [B]; None for all of it.  [NL eq. 71]

            theta <- theta + n / C (step(theta) - theta)      at `finish`, with n of the C tokens of a period

        A step counts for its tokens, as the terms of the equation's sum do. A whole step on a few tokens was measured
        to make what follows them worse; a share of one was not.

        Args:
            tokens: see `due`.
            event: see `due`.
        """
        if event is None or event != self.finish or isinstance(self.update_period, str):
            return None
        return (tokens.double() / self.update_period).clamp(max=1)


def check_levels(levels: Sequence[Level], chunk_size: int) -> tuple[Level, ...]:
    """Return the levels as a tuple once they fit together.

    Args:
        levels: in order of application.
        chunk_size: tokens that share one gradient anchor.
    Raises:
        ValueError: no level, a name given twice, a chunk_size that does not divide an update_period, or a running
            mean of a level that does not step.
    """
    if not levels:
        raise ValueError("no level was given; give at least one, such as Level('fast', update_period=64)")
    names = [level.name for level in levels]
    for name in names:
        if names.count(name) > 1 or not name or "." in name:
            raise ValueError(f"level name {name!r} must be unique, not empty and without a dot; got {names}")
    _check_means(levels)
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


def _check_means(levels: Sequence[Level]) -> None:
    """Refuse a running mean of nothing that moves, and two means of one level, which could restart from one only."""
    steps = [level.name for level in levels if level.update_period != math.inf]
    followed: dict[str, str] = {}
    for level in levels:
        if level.mean_of is None:
            continue
        if level.mean_of not in steps:
            raise ValueError(
                f"level {level.name!r} is the mean of {level.mean_of!r}, which is no level that steps; the levels that "
                f"step are {steps}: name one of them in mean_of"
            )
        if level.mean_of in followed:
            raise ValueError(
                f"levels {followed[level.mean_of]!r} and {level.name!r} are both the mean of {level.mean_of!r}, which "
                "restarts from one mean only; keep one of them"
            )
        followed[level.mean_of] = level.name
