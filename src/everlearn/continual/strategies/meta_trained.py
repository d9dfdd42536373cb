"""A representation that the first task meta-trains to be learned on without interference: OML, and ANML's gate."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from everlearn.continual.strategies.base import Encode, best_seen, loss_over_seen, tensor_bytes


class Rectified(nn.Module):
    """A hidden layer that is meta-trained, OML's representation: relu(W phi + b).

    Args:
        dim: length of a feature vector.
        hidden: units.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.dim_out = hidden
        self.units = nn.Linear(dim, hidden)

    def forward(self, phi: Tensor) -> Tensor:
        """Map [B, dim] to [B, hidden]."""
        return self.units(phi).relu()


class Gated(nn.Module):
    """The features themselves behind a gate that is meta-trained, ANML's neuromodulation: phi * 2 sigmoid(MLP(phi)).

    The gate starts at 1, so that the representation starts as phi.

    Args:
        dim: length of a feature vector.
        hidden: units of the gate's hidden layer.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.dim_out = dim
        last = nn.Linear(hidden, dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.gate = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), last)

    def forward(self, phi: Tensor) -> Tensor:
        """Map [B, dim] to [B, dim]."""
        return phi * 2 * self.gate(phi).sigmoid()


class MetaTrained:
    """Meta-train a representation on the first task, then only step a linear read-out on it.

    Online-aware meta-learning (Javed & White, 2019) and its gated kin (ANML, Beaulieu et al., 2020): an inner loop of
    plain steps learns one class of the task after its row was set to zero; the outer loss, on that class and on others,
    is differentiated through those steps into the representation and the read-out's start. The first task's features
    are kept until its end and then learned once more on the new representation. **It needs the first boundary**; the
    papers meta-train on hundreds of classes, a stream's first task has few.

    Args:
        encode: raw records -> features [B, D], not trained.
        representation: features -> [B, its dim_out]; `Rectified` or `Gated`.
        num_classes: C.
        lr: step of the read-out per batch, in the inner loop and on the stream.
        meta_lr: step of Adam in the outer loop.
        meta_steps: outer steps.
        inner_steps: inner steps of each.
        batch_size: records of an inner step, and twice as many for the outer loss.
        seed: of the draws.
    """

    stores_images = False

    def __init__(
        self,
        encode: Encode,
        representation: Rectified | Gated,
        num_classes: int,
        *,
        lr: float,
        meta_lr: float = 1e-3,
        meta_steps: int = 100,
        inner_steps: int = 5,
        batch_size: int = 10,
        seed: int = 0,
    ) -> None:
        self.encode, self.representation = encode, representation
        self.lr, self.meta_lr, self.meta_steps = lr, meta_lr, meta_steps
        self.inner_steps, self.batch_size = inner_steps, batch_size
        self.weight = torch.zeros(num_classes, representation.dim_out)
        self.seen = torch.zeros(num_classes, dtype=torch.bool)
        self.first: list[tuple[Tensor, Tensor]] | None = []
        self._generator = torch.Generator().manual_seed(seed)

    def observe(self, x: Tensor, y: Tensor) -> None:
        """Step the read-out on the batch; until the first boundary, keep the batch as well."""
        self.seen[y] = True
        phi = self.encode(x).detach()
        if self.first is not None:
            self.first.append((phi, y))
        self._learn(phi, y)

    def end_of_task(self) -> None:
        """At the first boundary, meta-train on what was kept, learn it once more and let it go."""
        if not self.first:
            return
        kept, self.first = self.first, None
        self._meta_train(torch.cat([phi for phi, _ in kept]), torch.cat([y for _, y in kept]))
        for phi, y in kept:
            self._learn(phi, y)

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return the best class seen so far, [B]."""
        return best_seen(self.representation(self.encode(x)) @ self.weight.mT, self.seen)

    def stores_bytes(self) -> int:
        """Return the bytes of the representation, the read-out, and of what is kept until the first boundary."""
        kept = [t for batch in self.first or () for t in batch]
        return tensor_bytes([*self.representation.parameters(), self.weight, *kept])

    def _learn(self, phi: Tensor, y: Tensor) -> None:
        """Take one plain step of the read-out."""
        with torch.no_grad():
            units = self.representation(phi)
        self.weight = self._stepped(self.weight.detach().requires_grad_(), units, y, False).detach()

    def _stepped(self, weight: Tensor, units: Tensor, y: Tensor, create_graph: bool) -> Tensor:
        """Return the read-out one step on, with the softmax over the classes seen so far, as the papers have it."""
        loss = loss_over_seen(units @ weight.mT, y, self.seen)
        (grad,) = torch.autograd.grad(loss, [weight], create_graph=create_graph)
        return weight - self.lr * grad

    def _meta_train(self, phi: Tensor, y: Tensor) -> None:
        """Change the representation and the read-out's start so that inner steps help and do not interfere."""
        start = self.weight.clone().requires_grad_()
        optimizer = torch.optim.Adam([*self.representation.parameters(), start], lr=self.meta_lr)
        classes = y.unique()
        for _ in range(self.meta_steps):
            chosen = classes[self._draw(len(classes), 1)]
            own = (y == chosen).nonzero().squeeze(1)
            weight = start * (torch.arange(len(start)) != chosen).to(start.dtype).unsqueeze(1)
            learned = []
            for _ in range(self.inner_steps):
                batch = own[self._draw(len(own), self.batch_size)]
                weight = self._stepped(weight, self.representation(phi[batch]), y[batch], True)
                learned.append(batch)
            asked = torch.cat([learned[-1], self._draw(len(y), 2 * self.batch_size)])
            loss = loss_over_seen(self.representation(phi[asked]) @ weight.mT, y[asked], self.seen)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self.weight = start.detach().clone()

    def _draw(self, count: int, size: int) -> Tensor:
        """Return `size` numbers below `count`."""
        return torch.randint(count, (size,), generator=self._generator)


def seeded(make: type[Rectified] | type[Gated], dim: int, hidden: int, seed: int) -> Rectified | Gated:
    """Return a representation whose start the seed fixes; the global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(dim, hidden)
