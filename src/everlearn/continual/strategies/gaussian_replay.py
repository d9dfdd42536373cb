"""Generative replay of features: practise what Gaussian classes would have looked like."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from everlearn.continual.strategies.base import (
    Encode,
    Network,
    Optimizer,
    loss_over_seen,
    tensor_bytes,
    training_bytes,
)
from everlearn.memory.class_statistics import DTYPE, ClassStatistics, as_labels


class GaussianReplay:
    """Fine-tune on each batch joined by features drawn from Gaussians of the classes seen so far.

    Generative replay (Shin et al., 2017; with class Gaussians as in PASS and its kin): the generator is one mean for
    each class and one covariance for all, which is what streaming LDA keeps, D^2 + C D numbers and no record. No
    boundary is needed. The question it answers is what a trained head adds to reading those Gaussians directly.

    Args:
        encode: raw records -> features [B, D], not trained.
        head: features -> logits [B, C].
        dim: D.
        num_classes: C.
        optimizer: parameters -> optimizer.
        practice: features drawn beside each batch, of classes chosen evenly, >= 1.
        refresh_period: batches between two factorisations of the covariance, >= 1.
        shrinkage: weight of the isotropic covariance, in (0, 1].
        seed: of the draws.
    """

    stores_images = False

    def __init__(
        self,
        encode: Encode,
        head: nn.Module,
        dim: int,
        num_classes: int,
        optimizer: Optimizer,
        *,
        practice: int = 10,
        refresh_period: int = 50,
        shrinkage: float = 0.01,
        seed: int = 0,
    ) -> None:
        self.network = Network(encode, head, num_classes)
        self.optimizer = optimizer(head.parameters())
        self.practice, self.refresh_period, self.shrinkage = practice, refresh_period, shrinkage
        self.statistics = ClassStatistics.of(torch.zeros(0, dim, dtype=DTYPE), [], dim)
        self.factor = torch.zeros(dim, dim, dtype=DTYPE)
        self._batches = 0
        self._generator = torch.Generator().manual_seed(seed)

    def observe(self, x: Tensor, y: Tensor) -> None:
        """Take one step on the batch and on drawn features, then count the batch in."""
        self.network.see(y)
        phi = self.network.encode(x)
        drawn, labels = self.draw()
        self.optimizer.zero_grad()
        logits = self.network.head(torch.cat([phi, drawn.to(phi.dtype)]))
        loss_over_seen(logits, torch.cat([y, labels]), self.network.seen).backward()
        self.optimizer.step()
        new = ClassStatistics.of(phi.detach().to(DTYPE), as_labels(y), phi.shape[1])
        self.statistics = self.statistics.plus(new)
        if self._batches % self.refresh_period == 0:
            self.factor = self._factorised()
        self._batches += 1

    def draw(self) -> tuple[Tensor, Tensor]:
        """Return `practice` features and their classes, none before the first batch."""
        known = self.statistics
        if not known.labels:
            return known.sums, torch.zeros(0, dtype=torch.long)
        rows = torch.randint(len(known.labels), (self.practice,), generator=self._generator)
        noise = torch.randn(self.practice, len(self.factor), dtype=DTYPE, generator=self._generator)
        return known.means[rows] + noise @ self.factor.mT, torch.tensor(known.labels)[rows]

    def predict(self, x: Tensor) -> Tensor:
        """Return the best class seen so far, [B]."""
        return self.network.predict(x)

    def stores_bytes(self) -> int:
        """Return the bytes of the head, its optimizer, the classes' sums and counts, the moment and its factor."""
        known = self.statistics
        kept = [known.sums, known.counts, known.second_moment, self.factor]
        return training_bytes(self.network.head, self.optimizer) + tensor_bytes(kept)

    def _factorised(self) -> Tensor:
        """Return L with L L^T the shrunk covariance within the classes; zeros while there is no spread."""
        covariance = self.statistics.scatter() / self.statistics.total
        size = covariance.diagonal().mean()
        if size <= 0:
            return torch.zeros_like(covariance)
        eye = torch.eye(len(covariance), dtype=DTYPE)
        return torch.linalg.cholesky((1 - self.shrinkage) * covariance + self.shrinkage * size * eye)
