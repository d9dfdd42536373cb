"""Which candidate goes on: the one that predicted the recent tokens best, or the model as it was."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BASE = "base"  # the candidate that has learned nothing
LIVE = "live"  # the candidate that is being taught


@dataclass(frozen=True)
class Route:
    """How a window was routed.

    Args:
        losses: candidate -> mean loss of the window in nats per token; the base first, then the oldest.
        choice: the candidate to go on with.
        margin: how much less it costs than the best of the others, in nats per token; infinite without others, and
            negative where the base was kept although another cost a little less.
        tokens: how many tokens were read for it, over all candidates.
        truth: the candidate that would have been right, where that is known.
    """

    losses: dict[str, float]
    choice: str
    margin: float
    tokens: int
    truth: str | None = None

    @property
    def wrong(self) -> bool | None:
        """Tell whether the choice was an error; None where the truth is not known."""
        return None if self.truth is None else self.choice != self.truth


def error_rate(routes: Iterable[Route]) -> float:
    """Return the share of wrong choices among the routes whose truth is known; NaN when there are none."""
    known = [route.wrong for route in routes if route.wrong is not None]
    return sum(known) / len(known) if known else math.nan


def choose(names: Sequence[str], nll: Tensor, tokens: int, min_gain: float, truth: str | None = None) -> Route:
    """Choose the candidate with the least mean loss; the first, which is the base, where the gain is too small.

    Args:
        names: of the candidates, the base first.
        nll: what each token cost each of them, [candidates, T]; NaN is not counted.
        tokens: how many were read for it, over all candidates.
        min_gain: how much less than the base, in nats per token, another must cost.
        truth: the candidate that would be right, for the report.
    """
    means = nll.nanmean(1)
    best = int(means.argmin())
    if not float(means[0] - means[best]) > min_gain:
        best = 0
    others = torch.cat([means[:best], means[best + 1 :]])
    margin = float(others.min() - means[best]) if len(others) else math.inf
    return Route(dict(zip(names, means.tolist(), strict=True)), names[best], margin, tokens, truth)
