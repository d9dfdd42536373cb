"""A matrix memory under the gated delta rule as a classifier: Hope's fast memory on a stream of classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from everlearn.continual.strategies.base import Encode, best_seen, tensor_bytes
from everlearn.ops.delta_rule import delta_rule
from everlearn.ops.unit import unit


class HopeMemory:
    """Write the class of each record under its features, record by record.  [NL eq. 64-65, 92]

        S <- S (alpha I - eta k k^T) + eta v k^T,   k = phi / |phi|,   v = onehot(y);   answer: argmax S k

    With `own_row` a record writes to its own class's row alone, S_y <- alpha S_y - eta (S_y k - 1) k^T: what a label
    mask is for a softmax. Otherwise every row learns that it is not meant, and the classes of today push out those of
    yesterday. Nothing is kept but S; there is no record and no boundary. Reading a batch or its records gives the same.

    Args:
        encode: raw records -> features [B, D].
        dim: D.
        num_classes: C.
        eta: step, in (0, 1]; 1 overwrites what the key held.
        alpha: retention per record, in (0, 1]; 1 keeps everything.
        own_row: whether only the row of a record's class is written.
    """

    stores_images = False

    def __init__(
        self, encode: Encode, dim: int, num_classes: int, *, eta: float, alpha: float = 1.0, own_row: bool = False
    ) -> None:
        self.encode, self.eta, self.alpha, self.own_row = encode, eta, alpha, own_row
        self.memory = torch.zeros(num_classes, dim)
        self.seen = torch.zeros(num_classes, dtype=torch.bool)

    def observe(self, x: Tensor, y: Tensor) -> None:
        """Write the records in their order."""
        self.seen[y] = True
        keys = unit(self.encode(x).detach())
        if self.own_row:
            self._write_own(keys, y)
            return
        rows, size = keys.shape[0], (1, len(keys), 1)
        values = F.one_hot(y, len(self.memory)).to(keys.dtype).reshape(1, rows, 1, -1)
        k = keys.reshape(1, rows, 1, -1)
        eta, log_alpha = torch.full(size, self.eta), torch.full(size, self.alpha).log()
        _, memory = delta_rule(k, k, values, eta, log_alpha, self.memory[None, None])
        self.memory = memory[0, 0]

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return the best class seen so far, [B]."""
        return best_seen(unit(self.encode(x)) @ self.memory.mT, self.seen)

    def stores_bytes(self) -> int:
        """Return the bytes of the memory."""
        return tensor_bytes([self.memory])

    def _write_own(self, keys: Tensor, y: Tensor) -> None:
        """Write each record into its class's row."""
        memory = self.memory.clone()
        for key, label in zip(keys, y.tolist(), strict=True):
            row = memory[label]
            memory[label] = self.alpha * row + self.eta * (1 - row @ key) * key
        self.memory = memory
