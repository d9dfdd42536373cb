"""Elastic weight consolidation: a spring on each weight, as stiff as earlier tasks needed it."""

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


class EWC:
    """Fine-tune under a penalty on moving the weights that earlier tasks relied on (Kirkpatrick et al., 2017).

        loss + strength/2 sum_i F_i (theta_i - theta*_i)^2

    F is the diagonal Fisher information, the mean over a task of each record's squared gradient, added over tasks;
    theta* are the weights at the end of the last task (the online form: one anchor, whatever the number of tasks).
    The squared gradients are taken as the records pass, since nothing is stored. **It needs task boundaries**: call
    `end_of_task` where one ends. No other strategy here does.

    Args:
        encode: raw records -> features, not trained.
        head: features -> logits [B, C].
        num_classes: C.
        optimizer: parameters -> optimizer.
        strength: stiffness of the springs, >= 0; 0 is fine-tuning.
    """

    stores_images = False

    def __init__(
        self, encode: Encode, head: nn.Module, num_classes: int, optimizer: Optimizer, *, strength: float
    ) -> None:
        self.network = Network(encode, head, num_classes)
        self.optimizer = optimizer(head.parameters())
        self.strength = strength
        self.fisher = {name: torch.zeros_like(p) for name, p in head.named_parameters()}
        self.anchor = {name: p.detach().clone() for name, p in head.named_parameters()}
        self._squares = {name: torch.zeros_like(p) for name, p in head.named_parameters()}
        self._records = 0

    def observe(self, x: Tensor, y: Tensor) -> None:
        """Take one penalised step on the batch, and collect the squares of its gradients."""
        self.network.see(y)
        self._collect(self.network.encode(x), y)
        self.optimizer.zero_grad()
        loss = loss_over_seen(self.network.logits(x), y, self.network.seen) + self.penalty()
        loss.backward()
        self.optimizer.step()

    def end_of_task(self) -> None:
        """Fasten the springs at the present weights, stiffer where this task's gradients were large."""
        for name, parameter in self.network.head.named_parameters():
            self.fisher[name] += self._squares[name] / max(self._records, 1)
            self.anchor[name] = parameter.detach().clone()
            self._squares[name].zero_()
        self._records = 0

    def penalty(self) -> Tensor:
        """Return what the present weights cost."""
        stretched = [
            (self.fisher[name] * (parameter - self.anchor[name]).square()).sum()
            for name, parameter in self.network.head.named_parameters()
        ]
        return self.strength / 2 * torch.stack(stretched).sum()

    def predict(self, x: Tensor) -> Tensor:
        """Return the best class seen so far, [B]."""
        return self.network.predict(x)

    def stores_bytes(self) -> int:
        """Return the bytes of the head, its optimizer, the anchor and both sets of squares."""
        kept = [*self.fisher.values(), *self.anchor.values(), *self._squares.values()]
        return training_bytes(self.network.head, self.optimizer) + tensor_bytes(kept)

    def _collect(self, phi: Tensor, y: Tensor) -> None:
        """Add each record's squared gradient."""
        parameters = {name: p.detach() for name, p in self.network.head.named_parameters()}

        def loss(weights: dict[str, Tensor], one: Tensor, label: Tensor) -> Tensor:
            logits = torch.func.functional_call(self.network.head, weights, (one.unsqueeze(0),))
            return loss_over_seen(logits, label.unsqueeze(0), self.network.seen)

        grads = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, phi, y)
        for name, grad in grads.items():
            self._squares[name] += grad.square().sum(0)
        self._records += len(y)
