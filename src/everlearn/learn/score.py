"""How well a text was predicted, and what was learned while it was read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from everlearn.learn.guard import GuardEvent
from everlearn.learn.route import Route


@dataclass(frozen=True)
class Score:
    """How well a text was predicted.

    Args:
        bits: cost of each token in bits, [T]; NaN for the first of a segment, which nothing predicts.
        steps: level name -> how often it stepped while the text was read; empty for a mere score.
        num_bytes: bytes of UTF-8 that each token stands for, [T]; None says one each.
        event: what the guard did at the end of the document; None where it did nothing, or there is none.
        routes: with an archive, how each chunk but the first was routed: by what the chunk before it cost.
        dropped: documents that left the archive because it was full.
    """

    bits: Tensor
    steps: dict[str, int]
    num_bytes: Tensor | None = None
    event: GuardEvent | None = None
    routes: tuple[Route, ...] = ()
    dropped: tuple[str, ...] = ()

    @property
    def readers(self) -> dict[str, int]:
        """Return how many chunks each candidate was chosen for, the most first; empty without an archive."""
        counts: dict[str, int] = {}
        for route in self.routes:
            counts[route.choice] = counts.get(route.choice, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    @property
    def bits_per_byte(self) -> float:
        """Return the cost of all predicted tokens over the bytes that they stand for; NaN when there are none."""
        if self.num_bytes is None:
            return float(self.bits.nanmean())
        return float(self.bits.nansum() / self.num_bytes[~self.bits.isnan()].sum())


def join(pieces: Sequence[Score]) -> Score:
    """Return one score for the pieces of a text."""
    steps: dict[str, int] = {}
    for piece in pieces:
        for level, count in piece.steps.items():
            steps[level] = steps.get(level, 0) + count
    sizes = [torch.ones_like(piece.bits) if piece.num_bytes is None else piece.num_bytes for piece in pieces]
    event = next((piece.event for piece in reversed(pieces) if piece.event is not None), None)
    routes = tuple(route for piece in pieces for route in piece.routes)
    dropped = tuple(name for piece in pieces for name in piece.dropped)
    return Score(torch.cat([piece.bits for piece in pieces]), steps, torch.cat(sizes), event, routes, dropped)
