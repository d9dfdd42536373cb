"""Nearest neighbours: keep everything, learn nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.continual.strategies.base import Encode, tensor_bytes


class NearestNeighbours:
    """Store every record's features and answer with the commonest class among the k nearest.

    The state grows without end: this is the bound of what storing buys, not a memory. Equal votes go to the class with
    the smaller number, as in scikit-learn. No boundary is needed.

    Args:
        encode: raw records -> features [B, D].
        num_classes: C.
        k: neighbours, >= 1.
    """

    stores_images = True

    def __init__(self, encode: Encode, num_classes: int, *, k: int = 10) -> None:
        self.encode, self.num_classes, self.k = encode, num_classes, k
        self.features: list[Tensor] = []
        self.labels: list[Tensor] = []

    def observe(self, x: Tensor, y: Tensor) -> None:
        """Keep the batch."""
        self.features.append(self.encode(x).detach().clone())
        self.labels.append(y.clone())

    def predict(self, x: Tensor) -> Tensor:
        """Return the class with the most votes, [B]."""
        kept, labels = torch.cat(self.features), torch.cat(self.labels)
        near = nearest(self.encode(x), kept, min(self.k, len(kept)))
        votes = torch.zeros(len(x), self.num_classes)
        return votes.scatter_add_(1, labels[near], torch.ones(near.shape)).argmax(1)

    def stores_bytes(self) -> int:
        """Return the bytes of all features and labels."""
        return tensor_bytes([*self.features, *self.labels])


def nearest(queries: Tensor, kept: Tensor, k: int) -> Tensor:
    """Return the rows of `kept` nearest to each query, nearest first, [B, k].

    Args:
        queries: [B, D].
        kept: [N, D].
        k: <= N.
    """
    distance = kept.square().sum(1) - 2 * queries @ kept.mT
    return distance.topk(k, dim=1, largest=False).indices
