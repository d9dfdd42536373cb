"""A head without reserved rows: a class gets its row when its first record comes."""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.continual.strategies.base import Encode, Loss, tensor_bytes


class ExpandableHead:
    """Append a row for every new class, imprinted with its first records, and step all rows on each batch.

        w_c = imprint (m_c - m) / |m_c - m|,   b_c = -w_c^T m

    m_c is the mean of the class's features in its first batch, m the mean of all features so far: what all records
    share says nothing about a class, and while it stays in the rows new ones win everywhere.
    Imprinting is Qi et al. (2018), growing heads are as old as class-incremental learning. The bytes follow the classes
    that came, not those that may; there is no record and no boundary. With imprint 0 it is fine-tuning of a linear
    head, exactly.

    Args:
        encode: raw records -> features [B, D], not trained.
        dim: D.
        lr: step of the rows per batch.
        imprint: size of a new row, >= 0.
        loss: which classes compete.
    """

    stores_images = False

    def __init__(self, encode: Encode, dim: int, *, lr: float, imprint: float, loss: Loss) -> None:
        self.encode, self.lr, self.imprint, self.loss = encode, lr, imprint, loss
        self.weight, self.bias = torch.zeros(0, dim), torch.zeros(0)
        self.mean, self.records = torch.zeros(dim), 0
        self.labels: list[int] = []

    def observe(self, x: Tensor, y: Tensor) -> None:
        """Append rows for the new classes, and take one step."""
        phi = self.encode(x).detach()
        self.records += len(phi)
        self.mean = self.mean + (phi - self.mean).sum(0) / self.records
        for label in y.unique().tolist():
            if label not in self.labels:
                self._append(label, phi[y == label].mean(0))
        rows = torch.tensor([self.labels.index(label) for label in y.tolist()])
        weight, bias = self.weight.requires_grad_(), self.bias.requires_grad_()
        every = torch.ones(len(self.labels), dtype=torch.bool)
        grads = torch.autograd.grad(self.loss(phi @ weight.mT + bias, rows, every), [weight, bias])
        self.weight, self.bias = (t.detach() - self.lr * g for t, g in zip((weight, bias), grads, strict=True))

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return the best class seen so far, [B]."""
        return torch.tensor(self.labels)[(self.encode(x) @ self.weight.mT + self.bias).argmax(1)]

    def stores_bytes(self) -> int:
        """Return the bytes of the rows and the mean, and eight for each label and the count of records."""
        return tensor_bytes([self.weight, self.bias, self.mean]) + 8 * len(self.labels) + 8

    def _append(self, label: int, mean: Tensor) -> None:
        """Give a class its row."""
        row = self.imprint * (mean - self.mean) / (mean - self.mean).norm().clamp_min(1e-12)
        self.weight = torch.cat([self.weight, row.unsqueeze(0)])
        self.bias = torch.cat([self.bias, -(row @ self.mean).reshape(1)])
        self.labels.append(label)
