"""Train a small model on a task that is drawn anew at every step, so that no example comes twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Draw = Callable[[int, int, torch.Generator], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class TaskTraining:
    """How a small model is trained on a task.

    Args:
        steps: optimizer steps.
        rows: examples per step.
        length: tokens of an example.
        first_length: tokens of the first examples; they grow in proportion until `growth` of the steps are done. None
            starts at `length`. A needle that is far away is not found without it.
        growth: share of the steps in which examples grow, in (0, 1].
        lr: peak rate of AdamW.
        warmup: steps of linear warm-up; afterwards the rate falls along a cosine to a tenth.
        clip: bound on the norm of the whole gradient.
    """

    steps: int
    rows: int
    length: int
    first_length: int | None = None
    growth: float = 0.6
    lr: float = 4e-3
    warmup: int = 50
    clip: float = 1.0

    def length_at(self, step: int) -> int:
        """Return the length of the examples of a step, counted from 0."""
        if self.first_length is None:
            return self.length
        done = min(1.0, step / max(1, round(self.growth * self.steps)))
        return round(self.first_length + done * (self.length - self.first_length))


def train_task(
    model: nn.Module, draw: Draw, answers: range, config: TaskTraining, generator: torch.Generator
) -> list[float]:
    """Train a model in place to choose the right answer among `answers`.

    Args:
        model: `model(tokens [B, T]) -> (logits [B, T, V], state)`; changed in place.
        draw: `(rows, length, generator) -> (tokens, targets, counted)`, each [B, T]; see `evals.tasks.Task`.
        answers: the tokens that an answer may be.
        config: see `TaskTraining`.
        generator: examples are drawn from it; what is drawn afterwards has not been seen.
    Returns:
        loss of every step in nats per answer, before the step.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = _schedule(optimizer, config)
    losses = []
    model.train()
    for step in range(config.steps):
        tokens, targets, counted = draw(config.rows, config.length_at(step), generator)
        logits, _ = model(tokens)
        chosen = logits[counted][:, answers.start : answers.stop]
        loss = F.cross_entropy(chosen, targets[counted] - answers.start)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    model.eval()
    return losses


def _schedule(optimizer: torch.optim.Optimizer, config: TaskTraining) -> torch.optim.lr_scheduler.LRScheduler:
    """Warm up linearly, then fall along a cosine to a tenth."""
    warmup = max(1, min(config.warmup, config.steps - 1))
    rise = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warmup, total_iters=warmup)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, config.steps - warmup), config.lr / 10)
    return torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, fall], [warmup])
