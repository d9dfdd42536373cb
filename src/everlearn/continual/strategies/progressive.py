"""Progressive networks: a new column for each task, beside columns that never change again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from everlearn.continual.strategies.base import Encode, Optimizer, best_seen, loss_over_seen, tensor_bytes


class Column(nn.Module):
    """One hidden layer, read together with those of the columns before it.

        h_k = relu(W_k phi);   logits_k = V_k h_k + sum_{j<k} U_kj h_j + b_k

    Args:
        dim: length of a feature vector.
        hidden: units.
        earlier: units of all columns before this one.
        num_classes: rows of the read-out.
    """

    def __init__(self, dim: int, hidden: int, earlier: int, num_classes: int) -> None:
        super().__init__()
        self.units = nn.Linear(dim, hidden)
        self.read = nn.Linear(hidden + earlier, num_classes)

    def forward(self, phi: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits, [B, C], and the units of this and all earlier columns."""
        units = torch.cat([self.units(phi).relu(), before], 1)
        return self.read(units), units


class Progressive:
    """Give each task a column of its own and freeze it at the task's end (Rusu et al., 2016).

    Nothing that was learned can change; a later column may use the features of the earlier ones. Each column answers
    for the classes that came while it learned. The paper is told the task at test; here nobody is, so the columns'
    logits, which were never trained against each other, compete: that is what it loses. The state grows with every
    task, no record is kept. **It needs task boundaries.**

    Args:
        encode: raw records -> features [B, D], not trained.
        dim: D.
        num_classes: C.
        optimizer: parameters -> optimizer.
        hidden: units of a column.
        seed: of the columns' starts.
    """

    stores_images = False

    def __init__(
        self, encode: Encode, dim: int, num_classes: int, optimizer: Optimizer, *, hidden: int = 64, seed: int = 0
    ) -> None:
        self.encode, self.dim, self.num_classes, self.hidden = encode, dim, num_classes, hidden
        self.make_optimizer, self.seed = optimizer, seed
        self.columns: list[Column] = []
        self.classes: list[Tensor] = []
        self._optimizer: torch.optim.Optimizer | None = None

    def observe(self, x: Tensor, y: Tensor) -> None:
        """Take one step on the newest column, which is new after a boundary."""
        if self._optimizer is None:
            self._optimizer = self._add_column()
        self.classes[-1][y] = True
        self._optimizer.zero_grad()
        loss_over_seen(self._logits(x)[-1], y, self.classes[-1]).backward()
        self._optimizer.step()

    def end_of_task(self) -> None:
        """Freeze the newest column for good."""
        if self._optimizer is not None:
            self.columns[-1].requires_grad_(False)
            self._optimizer = None

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return the best class seen so far, [B]: each column speaks for its own classes."""
        own = [z.masked_fill(~c, -torch.inf) for z, c in zip(self._logits(x), self.classes, strict=True)]
        return best_seen(torch.stack(own).amax(0), torch.stack(self.classes).any(0))

    def stores_bytes(self) -> int:
        """Return the bytes of all columns, and of what the newest one's optimizer keeps."""
        slots = self._optimizer.state.values() if self._optimizer is not None else ()
        kept = [t for state in slots for t in state.values() if isinstance(t, Tensor)]
        return tensor_bytes(kept) + sum(tensor_bytes(column.parameters()) for column in self.columns)

    def _add_column(self) -> torch.optim.Optimizer:
        """Append a column with a start of its own, and return what trains it."""
        count = len(self.columns)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + count)
            self.columns.append(Column(self.dim, self.hidden, count * self.hidden, self.num_classes))
        self.classes.append(torch.zeros(self.num_classes, dtype=torch.bool))
        return self.make_optimizer(self.columns[-1].parameters())

    def _logits(self, x: Tensor) -> list[Tensor]:
        """Return the logits of every column, each [B, C]."""
        phi = self.encode(x)
        units, found = phi[:, :0], []
        for column in self.columns:
            logits, units = column(phi, units)
            found.append(logits)
        return found
