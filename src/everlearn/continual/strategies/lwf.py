"""Learning without forgetting: the head as it was before a task teaches the head that learns it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from everlearn.continual.strategies.base import (
    Encode,
    Loss,
    Network,
    Optimizer,
    loss_over_batch,
    tensor_bytes,
    training_bytes,
)


class LwF:
    """Fine-tune while answering about old classes as before, on the new records (Li & Hoiem, 2016).

        loss + strength T^2 CE(softmax(z_old / T), softmax(z / T))     over the classes that the teacher knew

    The teacher is the head at the end of the last task; that is all that is kept, no record. **It needs task
    boundaries.** New records stand in for the old ones, which is what it rests on and where it fails.

    Args:
        encode: raw records -> features, not trained.
        head: features -> logits [B, C].
        num_classes: C.
        optimizer: parameters -> optimizer.
        strength: weight of the distillation, >= 0; 0 is fine-tuning with the same loss.
        temperature: T, > 0.
        loss: which classes compete for the new labels; those of the batch by default, as each task of the paper has
            a head of its own.
    """

    stores_images = False

    def __init__(
        self,
        encode: Encode,
        head: nn.Module,
        num_classes: int,
        optimizer: Optimizer,
        *,
        strength: float,
        temperature: float = 2.0,
        loss: Loss = loss_over_batch,
    ) -> None:
        self.network = Network(encode, head, num_classes)
        self.optimizer, self.loss = optimizer(head.parameters()), loss
        self.strength, self.temperature = strength, temperature
        self.teacher: nn.Module | None = None
        self.taught = torch.zeros(num_classes, dtype=torch.bool)

    def observe(self, x: Tensor, y: Tensor) -> None:
        """Take one step on the batch's labels and on the teacher's answers to it."""
        self.network.see(y)
        self.optimizer.zero_grad()
        phi = self.network.encode(x)
        logits = self.network.head(phi)
        loss = self.loss(logits, y, self.network.seen)
        if self.teacher is not None:
            with torch.no_grad():
                before = self.teacher(phi)[:, self.taught]
            loss = loss + self.strength * distillation(logits[:, self.taught], before, self.temperature)
        loss.backward()
        self.optimizer.step()

    def end_of_task(self) -> None:
        """Let the present head be the teacher of the next task."""
        self.teacher = copy.deepcopy(self.network.head).requires_grad_(False)
        self.taught = self.network.seen.clone()

    def predict(self, x: Tensor) -> Tensor:
        """Return the best class seen so far, [B]."""
        return self.network.predict(x)

    def stores_bytes(self) -> int:
        """Return the bytes of the head, its optimizer and the teacher."""
        teacher = () if self.teacher is None else self.teacher.parameters()
        return training_bytes(self.network.head, self.optimizer) + tensor_bytes(teacher)


def distillation(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T^2 times the mean cross-entropy between softened answers; its gradient in z is T (p - q) / B.

    Args:
        logits: z, [B, C].
        teacher: [B, C].
        temperature: T.
    """
    wanted = (teacher / temperature).softmax(1)
    return -(temperature**2) * (wanted * (logits / temperature).log_softmax(1)).sum(1).mean()
