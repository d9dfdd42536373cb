"""Guards: what has to hold before users get a model that has taken over what a stream learned."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from everlearn.learn.stream import read
from everlearn.levels import Verdict
from everlearn.models.decoder import Decoder


@dataclass(frozen=True, eq=False)
class ModelGuard:
    """Accept a candidate whose loss on a general text has not risen by more than a bound.

    Both models read the probe text as fresh streams, without learning. The mean over all tokens hides a damage to a
    few of them, and a text that is not like what users read says little: choose the probe with care.

    Args:
        ids: the probe text, [B, T] with at least two tokens a row, in the models' vocabulary.
        max_rise: how far the mean loss may rise, in nats per token; below zero it has to fall.
    Raises:
        ValueError: no token to score, or a bound that is not finite.
    Example:
        >>> from everlearn.levels import Level, consolidate
        >>> from everlearn.models import Decoder, preset
        >>> model = Decoder(preset("delta_net", dim=8, num_heads=1, levels=[Level("slow", 4)], chunk_size=4))
        >>> ids = torch.arange(40)[None]
        >>> _, state = read(model, ids, model.initial_state(1).detach(), chunk_size=4)
        >>> model, event = consolidate(model, state, ["slow"], ModelGuard(ids, max_rise=0.05))
        >>> event.verdict.accepted, sorted(event.verdict.numbers)
        (True, ['after', 'before', 'max_rise'])
    """

    ids: Tensor
    max_rise: float

    def __post_init__(self) -> None:
        if self.ids.ndim != 2 or self.ids.shape[0] < 1 or self.ids.shape[1] < 2:
            raise ValueError(
                f"the probe text has shape {tuple(self.ids.shape)}; give [B, T] with at least two tokens a row: "
                "the first of each is not scored"
            )
        if not math.isfinite(self.max_rise):
            raise ValueError(f"max_rise {self.max_rise} guards nothing; give a bound in nats per token, such as 0.02")

    def __call__(self, old: Decoder, new: Decoder) -> Verdict:
        """Compare the mean loss of both models on the probe text, in nats per token."""
        before, after = self._loss(old), self._loss(new)
        losses = {"before": before, "after": after, "max_rise": self.max_rise}
        numbers = {name: value for name, value in losses.items() if math.isfinite(value)}
        if not math.isfinite(after):
            return Verdict(False, f"the loss on the probe text is {after}", numbers)
        accepted = after - before <= self.max_rise
        word = "at most" if accepted else "more than"
        reason = f"the loss on the probe text went from {before:.4f} to {after:.4f} nats, {word} {self.max_rise} above"
        return Verdict(accepted, reason, numbers)

    def _loss(self, model: Decoder) -> float:
        """Return the mean negative log-likelihood over all tokens that are predicted."""
        with torch.no_grad():
            report, _ = read(model, self.ids, model.initial_state(len(self.ids)), chunk_size=1, learn=False)
        return float(report.nll[:, 1:].mean())
