"""Synaptic intelligence: a spring on each weight, as stiff as its way through the last tasks was useful."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from everlearn.continual.strategies.base import (
    Encode,
    Loss,
    Network,
    Optimizer,
    loss_over_seen,
    tensor_bytes,
    training_bytes,
)


class SI:
    """Fine-tune under a penalty on moving the weights that brought earlier losses down (Zenke et al., 2017).

        loss + strength sum_i Omega_i (theta_i - theta*_i)^2
        w_i = sum over a task's steps of -g_i delta_i;   Omega_i += max(w_i, 0) / (Delta_i^2 + damping) at its end

    g is the gradient of the task's own loss, delta a step, Delta the way of the whole task. Where `EWC` asks how sharp
    the loss is at the end, this asks which weights lowered it on the way, at no extra pass. Kept are the anchor theta*,
    Omega and w: three numbers beside each weight, and no record. **It needs task boundaries.**

    Args:
        encode: raw records -> features, not trained.
        head: features -> logits [B, C].
        num_classes: C.
        optimizer: parameters -> optimizer.
        strength: stiffness of the springs, >= 0; 0 is fine-tuning.
        damping: keeps a weight that hardly moved from becoming rigid, > 0.
        loss: which classes compete.
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
        damping: float = 0.1,
        loss: Loss = loss_over_seen,
    ) -> None:
        self.network = Network(encode, head, num_classes)
        self.optimizer, self.loss = optimizer(head.parameters()), loss
        self.strength, self.damping = strength, damping
        self.importance = {name: torch.zeros_like(p) for name, p in head.named_parameters()}
        self.anchor = {name: p.detach().clone() for name, p in head.named_parameters()}
        self.path = {name: torch.zeros_like(p) for name, p in head.named_parameters()}

    def observe(self, x: Tensor, y: Tensor) -> None:
        """Take one penalised step on the batch, and note what each weight did for the batch's own loss."""
        self.network.see(y)
        weights = dict(self.network.head.named_parameters())
        self.optimizer.zero_grad()
        self.loss(self.network.logits(x), y, self.network.seen).backward()
        own = {name: p.grad.clone() for name, p in weights.items() if p.grad is not None}
        before = {name: p.detach().clone() for name, p in weights.items()}
        self.penalty().backward()
        self.optimizer.step()
        for name, grad in own.items():
            self.path[name] -= grad * (weights[name].detach() - before[name])

    def end_of_task(self) -> None:
        """Fasten the springs at the present weights, stiffer where the way was useful."""
        for name, parameter in self.network.head.named_parameters():
            way = parameter.detach() - self.anchor[name]
            self.importance[name] += self.path[name].clamp_min(0) / (way.square() + self.damping)
            self.anchor[name] = parameter.detach().clone()
            self.path[name].zero_()

    def penalty(self) -> Tensor:
        """Return what the present weights cost."""
        stretched = [
            (self.importance[name] * (parameter - self.anchor[name]).square()).sum()
            for name, parameter in self.network.head.named_parameters()
        ]
        return self.strength * torch.stack(stretched).sum()

    def predict(self, x: Tensor) -> Tensor:
        """Return the best class seen so far, [B]."""
        return self.network.predict(x)

    def stores_bytes(self) -> int:
        """Return the bytes of the head, its optimizer, the anchor, the importances and the path."""
        kept = [*self.importance.values(), *self.anchor.values(), *self.path.values()]
        return training_bytes(self.network.head, self.optimizer) + tensor_bytes(kept)
