"""Streams whose classes do not stay what they were: names that swap, and contents that drift.  [ours]"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from everlearn.continual.streams import Split


class Learner(Protocol):
    """What learns a changing stream: a `PrecisionMemory`, or anything with its two methods."""

    def write(self, phi: Tensor, y: Tensor) -> None:
        """Learn records."""

    def predict(self, phi: Tensor) -> list[str | int]:
        """Answer records; nothing is learned."""


@dataclass(frozen=True)
class Changing:
    """Records of a world that changes, each once, and records that measure what is true at its end.

    Args:
        records: in order of arrival.
        change: the first record under which the world may be another one; everything before is of the old one.
        test: records with the labels of the end.
        changed: classes that are not what they were.
    """

    records: Split
    change: int
    test: Split
    changed: tuple[int, ...]

    @property
    def touched(self) -> Tensor:
        """Return which test records are of changed classes, [N] bool."""
        return torch.isin(self.test.y, torch.tensor(self.changed))


def relabel(train: Split, test: Split, pair: tuple[int, int], seed: int) -> Changing:
    """Let two classes swap their names in the middle of a shuffled stream.

    Args:
        train: what arrives, any x and classes.
        test: what measures.
        pair: the two classes.
        seed: of the order.
    Raises:
        ValueError: the two are one, or one of them never arrives.
    """
    _check_classes(train, pair)
    train = train.take(_shuffled(len(train.y), seed))
    middle = len(train.y) // 2
    labels = torch.cat([train.y[:middle], _swap(train.y[middle:], pair)])
    return Changing(Split(train.x, labels), middle, Split(test.x, _swap(test.y, pair)), pair)


def drift(train: Split, test: Split, moves: dict[int, int], seed: int) -> Changing:
    """Let what stands under some names turn, little by little, into something else.

    Class a of `moves` is a name whose records become those of class moves[a], which has no name of its own: in the
    first third of the stream all are still of a, in the last third all are of the other, in between ever more.

    Args:
        train: what arrives, any x and classes.
        test: what measures.
        moves: name -> the class that its content turns into; no class twice.
        seed: of the order and of the draw in between.
    Raises:
        ValueError: a class in two places, or one that never arrives.
    """
    _check_classes(train, (*moves, *moves.values()))
    generator = torch.Generator().manual_seed(seed)
    train = train.take(_shuffled(len(train.y), seed))
    place = torch.arange(len(train.y)) / max(len(train.y) - 1, 1)
    moved = torch.rand(len(train.y), generator=generator) < (3 * place - 1).clamp(0, 1)
    labels, keep = train.y.clone(), torch.ones(len(train.y), dtype=torch.bool)
    for name, other in moves.items():
        old, new = train.y == name, train.y == other
        keep = keep & ~(old & moved) & ~(new & ~moved)
        labels = torch.where(new, name, labels)
    change = int((keep & (3 * place < 1)).sum())
    stays = ~torch.isin(test.y, torch.tensor(list(moves)))
    seen = test.y.clone()
    for name, other in moves.items():
        seen = torch.where(test.y == other, name, seen)
    return Changing(Split(train.x[keep], labels[keep]), change, Split(test.x[stays], seen[stays]), tuple(moves))


@dataclass(frozen=True)
class Recovery:
    """How a learner came through a change; accuracies are fractions.

    Args:
        records: how many came after the change until the accuracy on the changed classes was back at nine tenths of
            `fresh`; None where it never was, so that more than were there are needed.
        fresh: accuracy on the changed classes of a learner that keeps everything and saw only what came after.
        changed: accuracy on the changed classes at the end.
        unchanged: accuracy on the others at the end.
        unchanged_before: the same just before the change.
    """

    records: int | None
    fresh: float
    changed: float
    unchanged: float
    unchanged_before: float


def recovery(make: Callable[[], Learner], fresh: Callable[[], Learner], stream: Changing, every: int) -> Recovery:
    """Let a learner read a changing stream, and count the records until it has followed.

    Args:
        make: an empty learner, which is measured.
        fresh: an empty learner that keeps everything, for comparison.
        stream: what is learned.
        every: records between two measurements, >= 1.
    """
    x, y, touched = stream.records.x, stream.records.y, stream.touched
    comparison = fresh()
    comparison.write(x[stream.change :], y[stream.change :])
    goal = _accuracy(comparison, stream.test, touched)
    learner = make()
    learner.write(x[: stream.change], y[: stream.change])
    before, needed = _accuracy(learner, stream.test, ~touched), None
    for start in range(stream.change, len(y), every):
        learner.write(x[start : start + every], y[start : start + every])
        if needed is None and _accuracy(learner, stream.test, touched) >= 0.9 * goal:
            needed = min(start + every, len(y)) - stream.change
    changed, unchanged = (_accuracy(learner, stream.test, part) for part in (touched, ~touched))
    return Recovery(needed, goal, changed, unchanged, before)


def _accuracy(learner: Learner, test: Split, which: Tensor) -> float:
    """Return the share of some test records that is answered right; NaN for none."""
    right = torch.tensor(learner.predict(test.x[which])) == test.y[which]
    return float(right.double().mean())


def _shuffled(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def _swap(labels: Tensor, pair: tuple[int, int]) -> Tensor:
    """Return labels with two classes swapped."""
    one, other = pair
    return torch.where(labels == one, other, torch.where(labels == other, one, labels))


def _check_classes(train: Split, classes: tuple[int, ...]) -> None:
    """Refuse classes that are one, or that no record is of."""
    known = set(train.y.tolist())
    missing = [one for one in classes if one not in known]
    if missing or len(set(classes)) < len(classes):
        why = f"no record is of {missing[0]}" if missing else "one is there twice"
        raise ValueError(
            f"classes {classes} cannot change places: {why}; give different classes of the training records"
        )
