"""In which order a text is trained on: a function of the seed and the step, so that a run can go on at any step."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """What one optimizer step reads.

    Args:
        ids: [R, L + 1] int64; inputs are all but the last, targets all but the first.
        real: [R, L] bool, which targets count; padding stands right.
        fresh: [R] bool, which rows begin a stream here; the others go on where the step before stopped.
    """

    ids: Tensor
    real: Tensor
    fresh: Tensor

    def rows(self, start: int, stop: int) -> Batch:
        """Return some of the rows."""
        return Batch(self.ids[start:stop], self.real[start:stop], self.fresh[start:stop])


class Order(Protocol):
    """Says what each step reads."""

    def batch(self, step: int) -> Batch:
        """Return what step number `step` reads, counted from 0."""
        ...


class Windows:
    """Each epoch reads every window of the text once, in an order of its own; the windows begin at a place of its own.

    Args:
        documents: tokens of each, [T]; windows run over their borders.
        rows: windows per step.
        length: targets per window.
        seed: of places and order.
    Raises:
        ValueError: a text shorter than one window.
    """

    def __init__(self, documents: Sequence[Tensor], rows: int, length: int, seed: int) -> None:
        self._data = torch.cat(list(documents))
        self.rows, self.length, self.seed = rows, length, seed
        if len(self._data) <= length:
            raise ValueError(
                f"the text to train on has {len(self._data)} tokens, one window needs {length + 1}; "
                f"give a longer text or set length below {len(self._data)}"
            )
        # one window fewer than fit, where that leaves any, so that an epoch can begin at any place within a window
        self.count = max(1, (len(self._data) - 1) // length - 1)
        self._epoch, self._starts = -1, torch.empty(0, dtype=torch.long)

    def batch(self, step: int) -> Batch:
        """Return the windows of a step; no row goes on from another."""
        numbers = range(step * self.rows, (step + 1) * self.rows)
        starts = torch.stack([self._start(number) for number in numbers])
        ids = self._data[starts[:, None] + torch.arange(self.length + 1)].long()
        all_of = torch.ones(self.rows, dtype=torch.bool)
        return Batch(ids, all_of[:, None].expand(-1, self.length), all_of)

    def _start(self, number: int) -> Tensor:
        """Return where a window of the endless sequence begins."""
        epoch, place = divmod(number, self.count)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(seed_of(self.seed, epoch))
            spare = len(self._data) - 1 - self.count * self.length
            first = torch.randint(min(self.length, spare + 1), (), generator=generator)
            self._starts = first + self.length * torch.randperm(self.count, generator=generator)
            self._epoch = epoch
        return self._starts[place]


class Strips:
    """Each row reads a strip of the text from its beginning to its end, segment by segment, and then again.

    A row that comes to the end of a document, or of its strip, begins a fresh stream at the next step; its last segment
    there may be short.

    Args:
        documents: tokens of each, [T].
        rows: strips.
        length: targets per segment.
        seed: of the place where the first strip begins.
    Raises:
        ValueError: a text shorter than a segment for each row.
    """

    def __init__(self, documents: Sequence[Tensor], rows: int, length: int, seed: int) -> None:
        documents = [document for document in documents if len(document) > 1]
        self._data = torch.cat(documents) if documents else torch.empty(0, dtype=torch.long)
        self.length = length
        if len(self._data) <= rows * length:
            raise ValueError(
                f"the text to train on has {len(self._data)} tokens, {rows} rows of {length} need more than "
                f"{rows * length}; give a longer text, or a smaller batch_size or length"
            )
        shift = int(torch.randint(len(self._data), (), generator=torch.Generator().manual_seed(seed_of(seed, 0))))
        ends = torch.cumsum(torch.tensor([len(document) for document in documents]), 0).tolist()
        cuts = [len(self._data) * row // rows for row in range(rows + 1)]
        self._segments = [self._cut(cuts[row] + shift, cuts[row + 1] + shift, ends) for row in range(rows)]

    def batch(self, step: int) -> Batch:
        """Return each row's next segment."""
        places = [segments[step % len(segments)] for segments in self._segments]
        ids = torch.zeros(len(places), self.length + 1, dtype=torch.long)
        real = torch.zeros(len(places), self.length, dtype=torch.bool)
        for row, (start, end, _) in enumerate(places):
            ids[row, : end - start + 1] = self._data[start : end + 1].long()
            real[row, : end - start] = True
        return Batch(ids, real, torch.tensor([fresh for _, _, fresh in places]))

    def _cut(self, start: int, stop: int, ends: Sequence[int]) -> list[tuple[int, int, bool]]:
        """Return (first input, last target, whether a stream begins) of each segment of a strip."""
        size, segments = len(self._data), []
        borders = sorted({0, *ends})
        # the strip runs round the end of the text
        for base in (0, size):
            for first, last in itertools.pairwise(borders):
                begin, end = max(first, start - base), min(last, stop - base)
                for at in range(begin, end, self.length):
                    target = min(at + self.length, end, last - 1)
                    if target > at:
                        segments.append((at, target, at == begin))
        return segments


def seed_of(seed: int, number: int) -> int:
    """Return a seed of its own for each number, such as an epoch, of each seed."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:7], "big")
