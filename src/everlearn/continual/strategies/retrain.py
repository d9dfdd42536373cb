"""What is done today: keep every record and train again on all of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from everlearn.continual.strategies.base import Encode, best_seen, tensor_bytes
from everlearn.continual.strategies.records import Records, Trainer


class RetrainEvery:
    """Keep every record and train a fresh model on all of them after every `period` records.

    Between trainings the last model answers, so a class is unknown until the next one. `records.seconds` and
    `records.visits` say what all trainings so far have cost. No boundary is needed.

    Args:
        encode: raw records -> features [B, D], not trained.
        num_classes: C.
        trainer: how a model is trained.
        period: records between two trainings, >= 1; None never trains by itself.
    """

    stores_images = True

    def __init__(self, encode: Encode, num_classes: int, trainer: Trainer, period: int | None) -> None:
        self.encode, self.trainer, self.period = encode, trainer, period
        self.records = Records()
        self.seen = torch.zeros(num_classes, dtype=torch.bool)
        self.known = torch.zeros(num_classes, dtype=torch.bool)
        self.model: nn.Module | None = None
        self._waiting = 0

    def observe(self, x: Tensor, y: Tensor) -> None:
        """Keep the batch, and train once enough records wait."""
        self.seen[y] = True
        self.records.add(self.encode(x), y)
        self._waiting += len(y)
        if self.period is not None and self._waiting >= self.period:
            self.train()

    def train(self) -> None:
        """Train a fresh model on everything."""
        self.model = self.records.train(self.trainer)
        self.known, self._waiting = self.seen.clone(), 0

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return the best class that the model was trained on, [B]; before the first training, one that was seen."""
        if self.model is None:
            return self.seen.nonzero()[0].expand(len(x))
        return best_seen(self.model(self.encode(x)), self.known)

    def stores_bytes(self) -> int:
        """Return the bytes of all records and of the model."""
        return self.records.bytes() + (0 if self.model is None else tensor_bytes(self.model.parameters()))


class RetrainEachTask:
    """Keep every record and train a fresh model on all of them when a task ends. **It needs task boundaries.**

    Args:
        encode: raw records -> features [B, D], not trained.
        num_classes: C.
        trainer: how a model is trained.
    """

    stores_images = True

    def __init__(self, encode: Encode, num_classes: int, trainer: Trainer) -> None:
        self.kept = RetrainEvery(encode, num_classes, trainer, period=None)

    @property
    def records(self) -> Records:
        """Return what is kept, and what training has cost."""
        return self.kept.records

    def observe(self, x: Tensor, y: Tensor) -> None:
        """Keep the batch."""
        self.kept.observe(x, y)

    def end_of_task(self) -> None:
        """Train a fresh model on everything."""
        self.kept.train()

    def predict(self, x: Tensor) -> Tensor:
        """Return the best class that the model was trained on, [B]."""
        return self.kept.predict(x)

    def stores_bytes(self) -> int:
        """Return the bytes of all records and of the model."""
        return self.kept.stores_bytes()
