"""What is kept of a layer's inputs until the next step; sums, so that small batches add up to a large one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist

from everlearn.optim.readings import Reading
from everlearn.rules.directions import directions, frequent_directions


@dataclass(frozen=True)
class Keys:
    """All keys of a layer that is one matrix: memory grows with the tokens between two steps."""

    blocks: tuple[Tensor, ...]

    @classmethod
    def of(cls, reading: Reading, x: Tensor) -> Keys | None:
        """Keep an input; of a layer that is several matrices, such as an embedding, nothing."""
        one = not reading.looks_up and reading.matrices(reading.weight).ndim == 2
        return cls((reading.keys(x),)) if one else None

    def __add__(self, other: Keys) -> Keys:
        return Keys(self.blocks + other.blocks)

    def of_all(self, group: dist.ProcessGroup | None) -> Tensor | None:
        """Return the keys of this process, [T, in]; they are not sent around."""
        return torch.cat(self.blocks) if self.count else None

    def of_none(self) -> Tensor:
        """Return one key of zeros."""
        return self.blocks[0].new_zeros(1, self.blocks[0].shape[-1])

    @property
    def count(self) -> int:
        """How many keys there are."""
        return sum(len(block) for block in self.blocks)


@dataclass(frozen=True)
class Moment:
    """The sum of x x^T / |x|^2, [..., in, in], and the number of keys: memory in x in for any number of tokens."""

    total: Tensor
    count: int

    @classmethod
    def of(cls, reading: Reading, x: Tensor) -> Moment:
        """Sum over an input."""
        return cls(*reading.total(x))

    def __add__(self, other: Moment) -> Moment:
        return Moment(self.total + other.total, self.count + other.count)

    def of_all(self, group: dist.ProcessGroup | None) -> Tensor | None:
        """Return C, the mean over the keys of all processes, [..., in, in]."""
        total, count = self.total, self.count
        if _several(group):
            total = total.clone()
            dist.all_reduce(total, group=group)
            count = _sum(count, total.device, group)
        return total / count if count else None

    def of_none(self) -> Tensor:
        """Return a moment of zeros."""
        return torch.zeros_like(self.total)


@dataclass(frozen=True)
class Sketch:
    """Frequent directions of the same sum, [..., rank, in]: memory rank x in, for wide layers."""

    rows: Tensor
    count: int

    @classmethod
    def of(cls, reading: Reading, x: Tensor, *, rank: int) -> Sketch:
        """Sketch an input: in one piece where the layer is narrow, else a few keys at a time."""
        if reading.looks_up:
            # one number for each token: its root is the whole sketch
            total, count = reading.total(x)
            return cls(total.sqrt(), count)
        keys = directions(reading.keys(x))
        rows = keys.new_zeros(*keys.shape[:-2], min(rank, keys.shape[-1]), keys.shape[-1])
        count, dim = keys.shape[-2:]
        # one decomposition of [in, in], or one of [3 rank, 3 rank] for every 2 rank keys: whichever multiplies less
        size = count if dim**3 <= 13 * count * rank**2 else 2 * rank
        for block in keys.split(size, -2) if count else ():
            rows, _ = frequent_directions(rows, block, rank)
        return cls(rows, count)

    def __add__(self, other: Sketch) -> Sketch:
        merged, _ = frequent_directions(self.rows, other.rows, self.rows.shape[-2])
        return Sketch(merged, self.count + other.count)

    def of_all(self, group: dist.ProcessGroup | None) -> Tensor | None:
        """Return R with R^T R about C, [..., rank, in]; the rows of all processes one below the other."""
        rows, count = self.rows, self.count
        if _several(group):
            parts = [torch.empty_like(rows) for _ in range(dist.get_world_size(group))]
            dist.all_gather(parts, rows.contiguous(), group=group)
            rows, count = torch.cat(parts, -2), _sum(count, rows.device, group)
        return rows / count**0.5 if count else None

    def of_none(self) -> Tensor:
        """Return a sketch of zeros."""
        return torch.zeros_like(self.rows)


def _several(group: dist.ProcessGroup | None) -> bool:
    """Tell whether this is one of several processes that train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1


def _sum(count: int, device: torch.device, group: dist.ProcessGroup | None) -> int:
    """Return the sum of a count over the processes."""
    # a double holds counts up to 2^53 exactly, and every backend adds doubles
    number = torch.tensor(float(count), dtype=torch.float64, device=device)
    dist.all_reduce(number, group=group)
    return int(number.item())
