"""The bound: everything seen so far, learned at once whenever it is asked."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from everlearn.continual.strategies.base import Encode, best_seen
from everlearn.continual.strategies.records import Records, Trainer


class LogisticRegression:
    """Solve multinomial logistic regression with a ridge on the weights, to convergence, by scikit-learn.

    A fit counts each record as visited once, whatever the solver does inside.

    Args:
        num_classes: rows of the answer; those of absent classes are zero.
        strength: C of scikit-learn, the inverse of the ridge, > 0.
        max_iter: iterations of L-BFGS at most.
    """

    epochs = 1

    def __init__(self, num_classes: int, *, strength: float, max_iter: int = 300) -> None:
        self.num_classes, self.strength, self.max_iter = num_classes, strength, max_iter

    def __call__(self, phi: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
        """Return what answers with logits, [B, C]; one class alone gets zeros."""
        from sklearn.linear_model import LogisticRegression as Solver

        weight, bias = torch.zeros(self.num_classes, phi.shape[1]), torch.zeros(self.num_classes)
        classes = y.unique()
        if len(classes) > 1:
            solved = Solver(C=self.strength, max_iter=self.max_iter).fit(phi.numpy(), y.numpy())
            rows, shift = torch.from_numpy(solved.coef_).float(), torch.from_numpy(solved.intercept_).float()
            # for two classes one row says both
            weight[classes], bias[classes] = (rows, shift) if len(rows) > 1 else (_both(rows), _both(shift))
        return lambda features: features @ weight.mT + bias


class Joint:
    """Keep every record and train a fresh model on all of them at the first answer after new ones (the joint bound).

    No stream can do this, since it stores everything and pays for all of it again at each evaluation: it says what the
    features hold. No boundary is needed.

    Args:
        encode: raw records -> features [B, D], not trained.
        num_classes: C.
        solve: `LogisticRegression(...)` or a `Trainer`.
    """

    stores_images = True

    def __init__(self, encode: Encode, num_classes: int, solve: LogisticRegression | Trainer) -> None:
        self.encode, self.num_classes, self.solve = encode, num_classes, solve
        self.records = Records()
        self.seen = torch.zeros(num_classes, dtype=torch.bool)
        self._model: Callable[[Tensor], Tensor] | None = None

    def observe(self, x: Tensor, y: Tensor) -> None:
        """Keep the batch."""
        self.seen[y] = True
        self.records.add(self.encode(x), y)
        self._model = None

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return the best class seen so far, [B]; what is solved for it depends on the records alone."""
        model = self._model
        if model is None:
            with torch.enable_grad():
                model = self._model = self.records.train(self.solve)
        return best_seen(model(self.encode(x)), self.seen)

    def stores_bytes(self) -> int:
        """Return the bytes of all records; the model follows from them."""
        return self.records.bytes()


def _both(one: Tensor) -> Tensor:
    """Return the rows of the first and the second class from the difference."""
    return torch.cat([-one / 2, one / 2])
