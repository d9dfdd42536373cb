"""A linear head whose gradient steps are turned away from what earlier inputs need."""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.continual.strategies.base import Encode, Loss, best_seen, tensor_bytes
from everlearn.rules.types import Rule, Slots


class PreconditionedHead:
    """Step a linear head by a rule that keeps a memory of its inputs.  [ours; NL eq. 47]

        logits = W phi;   (W, slots) <- rule(W, dL/dW, phi, slots)

    With `rules.owm` it is orthogonal weight modification (Zeng et al., 2019): the gradient of any loss, projected away
    from the span of earlier features. With `rules.least_squares` and `squared_error` it is recursive least squares and
    W is the ridge regression on all records so far, exactly and in any order; with a softmax over the classes seen so
    far it is OWM whose P is exact, and eta is about 200, since a softmax has answers far from 0 and 1 to reach. Kept
    are W and the rule's slots, some D x D matrices; there is no record and no boundary. Features are read as they are,
    without intercept.

    Args:
        encode: raw records -> features [B, D], not trained.
        dim: D.
        num_classes: C.
        rule: how W steps, its step size bound: `functools.partial(owm, eta=0.3)`.
        loss: what the gradient is of.
    """

    stores_images = False

    def __init__(self, encode: Encode, dim: int, num_classes: int, rule: Rule, loss: Loss) -> None:
        self.encode, self.rule, self.loss = encode, rule, loss
        self.weight = torch.zeros(num_classes, dim)
        self.slots: Slots = {}
        self.seen = torch.zeros(num_classes, dtype=torch.bool)

    def observe(self, x: Tensor, y: Tensor) -> None:
        """Take one step of the rule on the batch."""
        self.seen[y] = True
        phi = self.encode(x).detach().to(self.weight.dtype)
        weight = self.weight.requires_grad_()
        (grad,) = torch.autograd.grad(self.loss(phi @ weight.mT, y, self.seen), [weight])
        weight, self.slots = self.rule(weight.detach(), grad, phi, self.slots)  # type: ignore[call-arg]
        self.weight = weight.detach()

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return the best class seen so far, [B]."""
        return best_seen(self.encode(x).to(self.weight.dtype) @ self.weight.mT, self.seen)

    def stores_bytes(self) -> int:
        """Return the bytes of the head and of what its rule keeps."""
        return tensor_bytes([self.weight, *self.slots.values()])
