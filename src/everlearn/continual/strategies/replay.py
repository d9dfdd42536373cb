"""Replay: keep some of the past and go on practising it."""

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


class Replay:
    """Fine-tune on each batch joined by records drawn from a reservoir of the past (experience replay).

    The reservoir is a uniform sample of everything seen (Vitter's algorithm R). It keeps raw records.

    Args:
        encode: raw records -> features, not trained.
        head: features -> logits [B, C].
        num_classes: C.
        optimizer: parameters -> optimizer.
        capacity: records kept, >= 1; None where `max_bytes` bounds them.
        max_bytes: bytes of kept records and their labels, a bound that is never passed; None where `capacity` is given.
        practice: records drawn beside each batch, >= 1.
        seed: of the reservoir and the draws.
    Raises:
        ValueError: both bounds or neither, or, when it comes, a record that does not fit into `max_bytes`.
    """

    stores_images = True

    def __init__(
        self,
        encode: Encode,
        head: nn.Module,
        num_classes: int,
        optimizer: Optimizer,
        *,
        capacity: int | None = None,
        max_bytes: int | None = None,
        practice: int = 10,
        seed: int = 0,
    ) -> None:
        if (capacity is None) == (max_bytes is None):
            raise ValueError(
                f"capacity {capacity} and max_bytes {max_bytes} do not make one bound; give a number of records or a "
                "number of bytes, and leave the other out"
            )
        self.network = Network(encode, head, num_classes)
        self.optimizer = optimizer(head.parameters())
        self.capacity, self.max_bytes, self.practice = capacity, max_bytes, practice
        self.kept: list[tuple[Tensor, Tensor]] = []
        self._seen_records = 0
        self._generator = torch.Generator().manual_seed(seed)

    def observe(self, x: Tensor, y: Tensor) -> None:
        """Take one step on the batch and on some of the past, then let the reservoir choose."""
        self.network.see(y)
        old_x, old_y = self._draw()
        both_x, both_y = torch.cat([x, *old_x]), torch.cat([y, *old_y])
        self.optimizer.zero_grad()
        loss_over_seen(self.network.logits(both_x), both_y, self.network.seen).backward()
        self.optimizer.step()
        for record in zip(x, y, strict=True):
            self._offer(record)

    def predict(self, x: Tensor) -> Tensor:
        """Return the best class seen so far, [B]."""
        return self.network.predict(x)

    def stores_bytes(self) -> int:
        """Return the bytes of the head, its optimizer and the kept records with their labels."""
        kept = [t for record in self.kept for t in record]
        return training_bytes(self.network.head, self.optimizer) + tensor_bytes(kept)

    def _draw(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return distinct records of the past as batches of one."""
        order = torch.randperm(len(self.kept), generator=self._generator)[: self.practice].tolist()
        chosen = [self.kept[i] for i in order]
        return [x.unsqueeze(0) for x, _ in chosen], [y.unsqueeze(0) for _, y in chosen]

    def _offer(self, record: tuple[Tensor, Tensor]) -> None:
        """Keep a record with the probability that leaves every record of the past the same chance."""
        self._seen_records += 1
        capacity = self.capacity if self.capacity is not None else self._records_in_bytes(record)
        # a row of a batch is a view that would hold the whole batch in memory
        record = (record[0].clone(), record[1].clone())
        if len(self.kept) < capacity:
            self.kept.append(record)
            return
        place = int(torch.randint(self._seen_records, (), generator=self._generator))
        if place < capacity:
            self.kept[place] = record

    def _records_in_bytes(self, record: tuple[Tensor, Tensor]) -> int:
        """Return how many records of this size fit; the records of a stream are all of one size."""
        assert self.max_bytes is not None
        size = tensor_bytes(record)
        if size > self.max_bytes:
            raise ValueError(
                f"max_bytes {self.max_bytes} holds no record, which takes {size} bytes here; give at least that"
            )
        return self.max_bytes // size
