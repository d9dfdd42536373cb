"""Streams whose classes arrive one group after the other, each record once, without a task id."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
# the split is part of the data, not of a run: every seed of a stream uses the same test images
SPLIT_SEED = 0


@dataclass(frozen=True)
class Split:
    """Labelled records.

    Args:
        x: [N, ...], raw or encoded.
        y: [N] int64 classes.
    """

    x: Tensor
    y: Tensor

    def take(self, index: Tensor) -> Split:
        """Return the records at `index`, in its order."""
        return Split(self.x[index], self.y[index])


@dataclass(frozen=True)
class Experience:
    """What arrives between two evaluations.

    Args:
        name: such as "Monday".
        classes: the classes that are new in it.
        records: in order of arrival.
    """

    name: str
    classes: tuple[int, ...]
    records: Split

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (x, y) once, in order; the last batch may be smaller."""
        yield from zip(self.records.x.split(batch_size), self.records.y.split(batch_size), strict=True)


@dataclass(frozen=True)
class Stream:
    """Experiences in order, and the records that measure what was kept.

    Args:
        experiences: each with classes of its own.
        test: records of all classes; never learned.
    """

    experiences: tuple[Experience, ...]
    test: Split

    @property
    def test_experience(self) -> Tensor:
        """Return which experience each test record's class came in, [N] int64."""
        place = {c: i for i, experience in enumerate(self.experiences) for c in experience.classes}
        return torch.tensor([place[c] for c in self.test.y.tolist()], dtype=torch.long)

    def reversed(self) -> Stream:
        """Return the same records in the opposite order, from the last of the last experience on."""
        backwards = []
        for experience in self.experiences[::-1]:
            last_first = torch.arange(len(experience.records.y) - 1, -1, -1)
            backwards.append(replace(experience, records=experience.records.take(last_first)))
        return replace(self, experiences=tuple(backwards))


def class_incremental(
    train: Split, test: Split, classes_per_experience: int, seed: int, names: tuple[str, ...] | None = None
) -> Stream:
    """Deal the classes to experiences and shuffle each; every record arrives exactly once.

    Args:
        train: what arrives, any x and classes.
        test: what measures; records of classes that never arrive are left out.
        classes_per_experience: >= 1; the last experience takes what remains.
        seed: permutes the classes and the order inside each experience.
        names: of the experiences; "1", "2", ... when None.
    Raises:
        ValueError: no class, a size below one, or too few names.
    """
    classes = train.y.unique()
    if not len(classes) or classes_per_experience < 1:
        raise ValueError(
            f"{len(classes)} classes cannot be dealt {classes_per_experience} at a time; "
            "give labelled records and at least one class per experience"
        )
    generator = torch.Generator().manual_seed(seed)
    groups = classes[torch.randperm(len(classes), generator=generator)].split(classes_per_experience)
    return grouped(train, test, [group.tolist() for group in groups], generator, names)


def grouped(
    train: Split,
    test: Split,
    groups: Sequence[Sequence[int]],
    generator: torch.Generator,
    names: tuple[str, ...] | None = None,
) -> Stream:
    """Deal given groups of classes to experiences, in their order, and shuffle each; every record arrives once.

    Args:
        train, test: see `class_incremental`; classes in no group are left out.
        groups: the classes of each experience; none twice.
        generator: shuffles.
        names: of the experiences; "1", "2", ... when None.
    Raises:
        ValueError: a class in two groups or without a record, or too few names.
    """
    names = names or tuple(str(i + 1) for i in range(len(groups)))
    if len(names) < len(groups):
        raise ValueError(f"{len(groups)} experiences got {len(names)} names {names}; give one name for each")
    dealt = [c for group in groups for c in group]
    absent = sorted(set(dealt) - set(train.y.tolist()))
    if len(set(dealt)) < len(dealt) or absent:
        raise ValueError(
            f"the groups deal {len(dealt)} classes, {len(set(dealt))} of them different and {len(absent)} without a "
            "record; give each class that has records to one group"
        )
    experiences = []
    for name, group in zip(names, groups, strict=False):
        index = torch.isin(train.y, torch.tensor(group)).nonzero().squeeze(1)
        index = index[torch.randperm(len(index), generator=generator)]
        experiences.append(Experience(name, tuple(group), train.take(index)))
    return Stream(tuple(experiences), test.take(torch.isin(test.y, torch.tensor(dealt)).nonzero().squeeze(1)))


def deal(labels: Sequence[int], share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Deal numbers into two parts, class by class: at least one of each class on both sides where it has two.

    Args:
        labels: class of each.
        share: of the second part, in (0, 1).
        seed: of the order.
    Returns:
        the numbers of the first and of the second part, each in rising order.
    """
    dice = torch.Generator().manual_seed(seed)
    known = torch.as_tensor(labels)
    second = torch.zeros(len(known), dtype=torch.bool)
    for label in known.unique():
        own = (known == label).nonzero()[:, 0]
        count = min(len(own) - 1, max(1, round(share * len(own))))
        second[own[torch.randperm(len(own), generator=dice)[:count]]] = True
    return (~second).nonzero()[:, 0], second.nonzero()[:, 0]


def digits() -> tuple[Split, Split, Split]:
    """Return scikit-learn's handwritten digits as train, validation and test: 1,077, 270 and 450 images.

    Pixels are [N, 64] uint8 from 0 to 16. The split is stratified and fixed, whatever the seed of a stream.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    x, y = torch.from_numpy(data.data).to(torch.uint8), torch.from_numpy(data.target).long()
    rest, test = train_test_split(range(len(y)), test_size=450, random_state=SPLIT_SEED, stratify=y)
    train, validation = train_test_split(rest, test_size=270, random_state=SPLIT_SEED, stratify=y[rest])
    train, validation, test = (Split(x, y).take(torch.tensor(part)) for part in (train, validation, test))
    return train, validation, test


def week_of_digits(seed: int, train: Split, test: Split) -> Stream:
    """Return five days of two digits each; `test` is validation data while something is being chosen."""
    return class_incremental(train, test, classes_per_experience=2, seed=seed, names=DAYS)
