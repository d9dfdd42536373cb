"""What strategies share that store every record and train on them: the store, the training, and what it has cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from everlearn.continual.strategies.base import Loss, Optimizer, loss_over_seen, tensor_bytes

Model = TypeVar("Model", bound=Callable[[Tensor], Tensor], covariant=True)


class Solve(Protocol[Model]):
    """What makes a model of records.

    Attributes:
        epochs: how often each record passes through it.
    """

    epochs: int

    def __call__(self, phi: Tensor, y: Tensor) -> Model:
        """Return a model, features -> logits [B, C], of features [N, D] and their classes [N]."""
        ...


class Records:
    """All features that came, their classes, and what training on them has cost so far.

    Attributes:
        seconds: of processor time spent in training.
        visits: records that passed through training, each as often as it passed; the same on every machine.
    """

    def __init__(self) -> None:
        self.features: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.seconds, self.visits = 0.0, 0

    def __len__(self) -> int:
        return sum(map(len, self.labels))

    def add(self, phi: Tensor, y: Tensor) -> None:
        """Keep a batch."""
        self.features.append(phi.detach().clone())
        self.labels.append(y.clone())

    def train(self, solve: Solve[Model], since: int = 0) -> Model:
        """Return a model of the kept batches from `since` on, features -> logits [B, C], and count what it cost."""
        start = time.process_time()
        phi, y = torch.cat(self.features[since:]), torch.cat(self.labels[since:])
        model = solve(phi, y)
        self.seconds += time.process_time() - start
        self.visits += len(y) * solve.epochs
        return model

    def bytes(self) -> int:
        """Return the bytes of everything kept."""
        return tensor_bytes([*self.features, *self.labels])


class Trainer:
    """Train a fresh head on records, always from the same start.

    Args:
        make_head: () -> features -> logits [B, C], the same at each call.
        optimizer: parameters -> optimizer.
        num_classes: C.
        epochs: passes over the records, >= 1.
        batch_size: records of a step.
        seed: of the order of the records.
        loss: which classes compete.
    """

    def __init__(
        self,
        make_head: Callable[[], nn.Module],
        optimizer: Optimizer,
        num_classes: int,
        *,
        epochs: int,
        batch_size: int = 64,
        seed: int = 0,
        loss: Loss = loss_over_seen,
    ) -> None:
        self.make_head, self.optimizer, self.num_classes, self.loss = make_head, optimizer, num_classes, loss
        self.epochs, self.batch_size, self.seed = epochs, batch_size, seed

    def __call__(self, phi: Tensor, y: Tensor) -> nn.Module:
        """Return a head trained on features [N, D] and their classes [N]."""
        head = self.make_head()
        optimizer = self.optimizer(head.parameters())
        seen = torch.zeros(self.num_classes, dtype=torch.bool)
        seen[y] = True
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.epochs):
            for rows in torch.randperm(len(y), generator=generator).split(self.batch_size):
                optimizer.zero_grad()
                self.loss(head(phi[rows]), y[rows], seen).backward()
                optimizer.step()
        return head.requires_grad_(False)
