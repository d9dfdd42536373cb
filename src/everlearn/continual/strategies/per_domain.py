"""One model for each domain, and an oracle that sends every question to the right one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from everlearn.continual.strategies.base import Encode, best_seen, tensor_bytes
from everlearn.continual.strategies.records import Records, Trainer


class OneModelPerDomain:
    """Train a model of its own on each domain's records when the domain ends.

    Nothing interferes, since nothing is shared; the price is a model for each domain, all records (so that a domain
    can be trained again), and somebody who knows at test which domain a record is of. That oracle makes its accuracy
    easier than that of all others: a domain's classes alone compete. **It needs boundaries and an oracle.** Without
    the oracle the newest domain's model answers.

    Args:
        encode: raw records -> features [B, D], not trained.
        num_classes: C.
        trainer: how a model is trained.
    """

    stores_images = True

    def __init__(self, encode: Encode, num_classes: int, trainer: Trainer) -> None:
        self.encode, self.trainer, self.num_classes = encode, trainer, num_classes
        self.records = Records()
        self.models: list[nn.Module] = []
        self.classes: list[Tensor] = []
        self._starts_at = 0

    def observe(self, x: Tensor, y: Tensor) -> None:
        """Keep the batch for the domain that is going on."""
        if len(self.classes) == len(self.models):
            self.classes.append(torch.zeros(self.num_classes, dtype=torch.bool))
        self.classes[-1][y] = True
        self.records.add(self.encode(x), y)

    def end_of_task(self) -> None:
        """Train the domain's model on the domain's records."""
        if len(self.classes) > len(self.models):
            self.models.append(self.records.train(self.trainer, since=self._starts_at))
            self._starts_at = len(self.records.labels)

    def predict(self, x: Tensor) -> Tensor:
        """Return the answer of the newest domain, [B]."""
        return self.predict_in(x, torch.full((len(x),), len(self.classes) - 1))

    @torch.no_grad()
    def predict_in(self, x: Tensor, domain: Tensor) -> Tensor:
        """Return the answer of each record's own domain, [B]; one that has not come yet is asked of the newest."""
        phi = self.encode(x)
        answers = torch.zeros(len(phi), dtype=torch.long)
        domain = domain.clamp_max(len(self.classes) - 1)
        for number, classes in enumerate(self.classes):
            rows = domain == number
            # a domain that is still going on has no model, and answers with one of its classes
            known = number < len(self.models)
            logits = self.models[number](phi[rows]) if known else torch.zeros(int(rows.sum()), self.num_classes)
            answers[rows] = best_seen(logits, classes)
        return answers

    def stores_bytes(self) -> int:
        """Return the bytes of all records and all models."""
        return self.records.bytes() + sum(tensor_bytes(model.parameters()) for model in self.models)
