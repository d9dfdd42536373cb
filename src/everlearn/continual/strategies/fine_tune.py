"""Fine-tuning: the plain thing to do, and what forgets."""

from __future__ import annotations

from torch import Tensor, nn

from everlearn.continual.strategies.base import (
    Encode,
    Loss,
    Network,
    Optimizer,
    loss_over_seen,
    training_bytes,
)


class FineTune:
    """Step a head on each batch, by default with the softmax over all classes seen so far.

    Args:
        encode: raw records -> features, not trained.
        head: features -> logits [B, C].
        num_classes: C.
        optimizer: parameters -> optimizer, such as `functools.partial(torch.optim.SGD, lr=0.1)`.
        loss: which classes compete; see `fine_tune_masked` for the other choice.
    """

    stores_images = False

    def __init__(
        self, encode: Encode, head: nn.Module, num_classes: int, optimizer: Optimizer, loss: Loss = loss_over_seen
    ) -> None:
        self.network = Network(encode, head, num_classes)
        self.optimizer, self.loss = optimizer(head.parameters()), loss

    def observe(self, x: Tensor, y: Tensor) -> None:
        """Take one step on the batch."""
        self.network.see(y)
        self.optimizer.zero_grad()
        self.loss(self.network.logits(x), y, self.network.seen).backward()
        self.optimizer.step()

    def predict(self, x: Tensor) -> Tensor:
        """Return the best class seen so far, [B]."""
        return self.network.predict(x)

    def stores_bytes(self) -> int:
        """Return the bytes of the head and its optimizer."""
        return training_bytes(self.network.head, self.optimizer)
