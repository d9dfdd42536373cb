"""What every continual strategy offers, and the parts that gradient strategies share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Encode = Callable[[Tensor], Tensor]
Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


class Strategy(Protocol):
    """A learner of a stream: each batch once, no task id, no boundary.

    Attributes:
        stores_images: whether records stay in it, raw or as features, after they were learned.
    """

    stores_images: bool

    def observe(self, x: Tensor, y: Tensor) -> None:
        """Learn one batch, x [B, ...] raw records and y [B] classes, and never ask for it again."""

    def predict(self, x: Tensor) -> Tensor:
        """Answer with one of the classes seen so far, [B] int64; nothing is learned."""

    def stores_bytes(self) -> int:
        """Return the bytes kept from one batch to the next; a fixed random encoder is regenerated, not kept."""


@runtime_checkable
class TakesBoundaries(Protocol):
    """A strategy that must be told when a task has ended, which a real stream does not say."""

    def end_of_task(self) -> None:
        """Hear that the records of a task are over."""


@runtime_checkable
class AsksForDomain(Protocol):
    """A strategy that must be told which domain a record to answer is of: an oracle that a real stream has not."""

    def predict_in(self, x: Tensor, domain: Tensor) -> Tensor:
        """Answer with classes seen so far, [B], given each record's domain [B], counted in the order of arrival."""


def as_features(x: Tensor) -> Tensor:
    """Return records that are features already, [B, D] float32."""
    return x.float()


def loss_over_seen(logits: Tensor, y: Tensor, seen: Tensor) -> Tensor:
    """Return the cross-entropy among all classes seen so far: absent classes are pushed down in every batch.

    Args:
        logits: [B, C].
        y: [B].
        seen: [C] bool.
    """
    return F.cross_entropy(logits.masked_fill(~seen, -torch.inf), y)


def loss_over_batch(logits: Tensor, y: Tensor, seen: Tensor) -> Tensor:
    """Return the cross-entropy among the classes of this batch: absent classes are left alone ("label mask").

    The mask follows from the labels that are being learned; at test nothing is masked. `seen` is not used.
    """
    present = torch.zeros_like(seen)
    present[y] = True
    return F.cross_entropy(logits.masked_fill(~present, -torch.inf), y)


def squared_error(logits: Tensor, y: Tensor, seen: Tensor) -> Tensor:
    """Return the sum over the records of half the squared distance to the one-hot label; `seen` is not used.

    A row of a class that has not come has a target of zero, which a row of zeros answers anyhow.
    """
    return (logits - F.one_hot(y, logits.shape[1]).to(logits.dtype)).square().sum() / 2


LOSSES: dict[str, Loss] = {"seen": loss_over_seen, "batch": loss_over_batch, "squared": squared_error}


class Network:
    """An encoder that stays, a head that learns, and the classes seen so far.

    Args:
        encode: raw records [B, ...] -> features [B, D]; not trained.
        head: features -> logits [B, C].
        num_classes: C, rows reserved in the head; a class has no say before its first record.
    """

    def __init__(self, encode: Encode, head: nn.Module, num_classes: int) -> None:
        self.encode, self.head = encode, head
        self.seen = torch.zeros(num_classes, dtype=torch.bool)

    def see(self, y: Tensor) -> None:
        """Note the classes of a batch."""
        self.seen[y] = True

    def logits(self, x: Tensor) -> Tensor:
        """Return the head's answer to raw records, [B, C]."""
        return self.head(self.encode(x))

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return the best class seen so far for each record, [B]."""
        return best_seen(self.logits(x), self.seen)


def best_seen(logits: Tensor, seen: Tensor) -> Tensor:
    """Return the argmax over the classes seen so far, [B]."""
    return logits.masked_fill(~seen, -torch.inf).argmax(1)


def linear_head(dim: int, num_classes: int, seed: int) -> nn.Module:
    """Return a linear classifier that starts at zero; `seed` has no effect on it."""
    # skip_init leaves the global generator as it was
    head = nn.utils.skip_init(nn.Linear, dim, num_classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def mlp_head(dim: int, num_classes: int, seed: int, hidden: int = 64) -> nn.Module:
    """Return a classifier with one hidden layer; the seed fixes its start and the global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes that tensors hold."""
    return sum(t.numel() * t.element_size() for t in tensors)


def training_bytes(head: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of a head and of what its optimizer keeps between steps."""
    slots = [t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
    return tensor_bytes([*head.parameters(), *slots])
