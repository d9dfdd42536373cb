"""Sums over labelled records: all that linear classifiers need to know, and exact to add or take away."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

Label = str | int
DTYPE = torch.float64
GONE = 2.0**-500  # weight of a class that has faded away; far above where float64 loses digits
BLOCK = 256  # columns of a second moment that are computed at a time


@dataclass(frozen=True)
class ClassStatistics:
    """Sufficient statistics of labelled records. A value: adding and removing return new ones.

    Args:
        labels: the classes in their one order, integers before text, both sorted; so equal knowledge has equal bits.
        second_moment: sum of phi phi^T over all records, [D, D] float64.
        sums: sum of phi over each class's records, [C, D] float64.
        counts: records of each class, [C] int64, all above zero; float64 where records weigh less with their age.
    """

    labels: tuple[Label, ...]
    second_moment: Tensor
    sums: Tensor
    counts: Tensor

    @classmethod
    def of(cls, phi: Tensor, labels: Sequence[Label], dim: int, weights: Tensor | None = None) -> ClassStatistics:
        """Return the statistics of some records; none give the empty ones.

        Args:
            phi: features, [B, dim] float64.
            labels: B classes.
            dim: length of a feature vector.
            weights: how much each record counts, [B] float64, above zero; None counts each as one.
        """
        classes = tuple(sorted(set(labels), key=order))
        row = {label: i for i, label in enumerate(classes)}
        index = torch.tensor([row[label] for label in labels], dtype=torch.long)
        weighed = phi if weights is None else phi * weights.unsqueeze(1)
        sums = torch.zeros(len(classes), dim, dtype=DTYPE).index_add(0, index, weighed)
        return cls(classes, _moment(weighed, phi), sums, torch.bincount(index, weights, minlength=len(classes)))

    @property
    def means(self) -> Tensor:
        """Return the class means, [C, D]."""
        return self.sums / self.counts.unsqueeze(1)

    @property
    def total(self) -> float:
        """Return the number of records, N, or the sum of their weights."""
        return self.counts.sum().item()

    def faded(self, share: float) -> ClassStatistics:
        """Return the statistics with every record counting `share` of what it did; a class of almost no weight goes.

        Args:
            share: in (0, 1].
        """
        counts = self.counts.to(DTYPE) * share
        stays = counts > GONE
        labels = tuple(label for label, kept in zip(self.labels, stays.tolist(), strict=True) if kept)
        return ClassStatistics(labels, self.second_moment * share, self.sums[stays] * share, counts[stays])

    def scatter(self) -> Tensor:
        """Return how records differ within their classes, sum of (phi - mu_y)(phi - mu_y)^T, [D, D]."""
        return self.second_moment - self.sums.mT @ self.means

    def plus(self, other: ClassStatistics) -> ClassStatistics:
        """Return the statistics of both sets of records together."""
        labels = tuple(sorted({*self.labels, *other.labels}, key=order))
        row = {label: i for i, label in enumerate(labels)}
        sums = self.sums.new_zeros(len(labels), self.sums.shape[1])
        counts = torch.zeros(len(labels), dtype=torch.promote_types(self.counts.dtype, other.counts.dtype))
        for part in (self, other):
            index = torch.tensor([row[label] for label in part.labels], dtype=torch.long)
            sums.index_add_(0, index, part.sums)
            counts.index_add_(0, index, part.counts.to(counts.dtype))
        return ClassStatistics(labels, self.second_moment + other.second_moment, sums, counts)

    def minus(self, other: ClassStatistics, slack: float) -> ClassStatistics:
        """Return the statistics without `other`; a class that keeps no record is gone.

        Args:
            other: statistics of records that are part of these.
            slack: difference in one feature that an encoder may show when it reads the same item twice.
        Raises:
            ValueError: `other` cannot be part of these: an unknown class, too many records, or a rest that no records
                could have left.
        """
        for label, count in zip(other.labels, other.counts.tolist(), strict=True):
            known = self.count(label)
            if count > known:
                raise ValueError(
                    f"{count} record(s) of class {label!r} cannot be forgotten, {known} were learned; "
                    "give only items that were learned, under the labels they were learned with"
                )
        row = {label: i for i, label in enumerate(self.labels)}
        index = torch.tensor([row[label] for label in other.labels], dtype=torch.long)
        sums = self.sums.index_add(0, index, -other.sums)
        counts = self.counts.index_add(0, index, -other.counts)
        moment = self.second_moment - other.second_moment
        left = counts > 0
        spread = moment.diagonal() - (sums[left] ** 2 / counts[left].unsqueeze(1)).sum(0)
        residue = sums[~left].abs().max() if bool((~left).any()) else torch.zeros(())
        if residue > slack * other.total or spread.min() < -(slack**2 + 1e-9 * self.second_moment.diagonal().max()):
            raise ValueError(
                f"{other.total:g} record(s) cannot be forgotten: what would be left are no records' statistics; "
                "give exactly the items and labels that were learned"
            )
        labels = tuple(label for label, stays in zip(self.labels, left.tolist(), strict=True) if stays)
        return ClassStatistics(labels, moment if labels else torch.zeros_like(moment), sums[left], counts[left])

    def count(self, label: Label) -> int:
        """Return how many records of a class are in; 0 for one that is unknown."""
        return int(self.counts[self.labels.index(label)]) if label in self.labels else 0


def _moment(weighed: Tensor, phi: Tensor) -> Tensor:
    """Return weighed^T phi, which is symmetric to the last bit, from its upper half: [B, D] -> [D, D]."""
    dim = phi.shape[1]
    moment = phi.new_empty(dim, dim)
    for start in range(0, dim, BLOCK):
        rows = slice(start, start + BLOCK)
        moment[rows, start:] = weighed[:, rows].mT @ phi[:, start:]
        corner = moment[rows, rows]
        moment[rows, rows] = corner.triu() + corner.triu(1).mT
        moment[start + BLOCK :, rows] = moment[rows, start + BLOCK :].mT
    return moment


def as_labels(y: Sequence[Label] | Tensor) -> list[Label]:
    """Return labels as Python text and integers; tensors and numpy's kinds are welcome.

    Raises:
        ValueError: one bare text or number, or a label of another kind.
    """
    if isinstance(y, str | int) or (isinstance(y, Tensor) and not y.ndim):
        what = "text" if isinstance(y, str) else "number"
        raise ValueError(f"labels are one {what}, {y!r}; give a list with one label for each item")
    return [_as_label(value) for value in (y.tolist() if isinstance(y, Tensor) else y)]


def order(label: Label) -> tuple[bool, Label]:
    """Sort integers before text."""
    return isinstance(label, str), label


def _as_label(value: Any) -> Label:
    """Return one label as Python text or integer."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"label {value!r} is of type {type(value).__name__}; give text or an integer")
    return operator.index(value)
