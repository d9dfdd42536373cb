"""The precision memory as a strategy."""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.continual.strategies.base import Encode, tensor_bytes
from everlearn.memory.precision import PrecisionMemory


class Precision:
    """Write each batch's features into a precision memory and answer from it: streaming LDA.

    Args:
        encode: raw records -> features [B, D].
        memory: what learns, of dim D.
    """

    stores_images = False

    def __init__(self, encode: Encode, memory: PrecisionMemory) -> None:
        self.encode, self.memory = encode, memory

    def observe(self, x: Tensor, y: Tensor) -> None:
        """Write the batch."""
        self.memory.write(self.encode(x), y)

    def predict(self, x: Tensor) -> Tensor:
        """Return the best class seen so far, [B]."""
        return torch.tensor(self.memory.labels)[self.memory.scores(self.encode(x)).argmax(1)]

    def stores_bytes(self) -> int:
        """Return the bytes of the memory's state."""
        return tensor_bytes(self.memory.to_tensors()[0].values())
