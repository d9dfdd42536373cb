"""Label-masked fine-tuning: a batch does not push down the classes that it does not contain."""

from __future__ import annotations

from torch import Tensor, nn

from everlearn.continual.strategies.base import (
    Encode,
    Network,
    Optimizer,
    loss_over_batch,
    training_bytes,
)


class FineTuneMasked:
    """Step a head on each batch with the softmax over the classes of that batch.

    The mask needs no task id: it follows from the labels being learned. At test all classes seen so far compete.

    Args:
        encode: raw records -> features, not trained.
        head: features -> logits [B, C].
        num_classes: C.
        optimizer: parameters -> optimizer.
    """

    stores_images = False

    def __init__(self, encode: Encode, head: nn.Module, num_classes: int, optimizer: Optimizer) -> None:
        self.network = Network(encode, head, num_classes)
        self.optimizer = optimizer(head.parameters())

    def observe(self, x: Tensor, y: Tensor) -> None:
        """Take one step on the batch."""
        self.network.see(y)
        self.optimizer.zero_grad()
        loss_over_batch(self.network.logits(x), y, self.network.seen).backward()
        self.optimizer.step()

    def predict(self, x: Tensor) -> Tensor:
        """Return the best class seen so far, [B]."""
        return self.network.predict(x)

    def stores_bytes(self) -> int:
        """Return the bytes of the head and its optimizer."""
        return training_bytes(self.network.head, self.optimizer)
