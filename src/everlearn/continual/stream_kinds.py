"""Streams as they really come: in uneven parts, again and again, with wrong labels. Each changes a stream's records.

Test records are never changed. What is drawn at random is drawn from a seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from everlearn.continual.streams import Experience, Split, Stream, grouped


def uneven(train: Split, test: Split, experiences: int, seed: int) -> Stream:
    """Deal the classes to experiences of very different size: each takes about half of the classes that are left.

    Args:
        train, test: see `class_incremental`.
        experiences: how many, at most one for each class.
        seed: permutes the classes and the order inside each experience.
    Raises:
        ValueError: more experiences than classes, or none.
    """
    generator = torch.Generator().manual_seed(seed)
    classes = train.y.unique()
    if not 1 <= experiences <= len(classes):
        raise ValueError(f"{len(classes)} classes do not fill {experiences} experiences; give 1 to {len(classes)}")
    left = classes[torch.randperm(len(classes), generator=generator)].tolist()
    groups: list[list[int]] = []
    for rest in range(experiences - 1, -1, -1):
        size = len(left) if rest == 0 else max(1, min(len(left) // 2, len(left) - rest))
        groups.append(left[:size])
        left = left[size:]
    return grouped(train, test, groups, generator)


def epochs(stream: Stream, count: int, seed: int) -> Stream:
    """Let the records of each experience arrive `count` times in a row, shuffled anew each time.

    Raises:
        ValueError: a count below one.
    """
    _check("epochs", count, count >= 1, "[1, ...]; 1 is a single pass")
    generator = torch.Generator().manual_seed(seed)

    def repeat(experience: Experience) -> Split:
        size = len(experience.records.y)
        again = [torch.randperm(size, generator=generator) for _ in range(count - 1)]
        return experience.records.take(torch.cat([torch.arange(size), *again]))

    return _changed(stream, [repeat(experience) for experience in stream.experiences])


def returning(stream: Stream, share: float, seed: int) -> Stream:
    """Hold back a share of each experience's records, and let them arrive later, among those of the others.

    A class comes back in experiences after its own; each record still arrives once. The last experience holds back
    nothing.

    Args:
        stream: any.
        share: of the records that are held back, in [0, 1).
        seed: of what is held back and where it goes.
    Raises:
        ValueError: a share outside its range.
    """
    _check("share", share, 0 <= share < 1, "[0, 1); 0.2 holds back a fifth")
    generator = torch.Generator().manual_seed(seed)
    parts: list[list[Split]] = [[] for _ in stream.experiences]
    for place, experience in enumerate(stream.experiences):
        records, later = experience.records, len(parts) - place - 1
        order = torch.randperm(len(records.y), generator=generator)
        held = order[: int(share * len(order))] if later else order[:0]
        kept = torch.ones(len(order), dtype=torch.bool)
        kept[held] = False
        parts[place].append(records.take(kept.nonzero().squeeze(1)))
        goes = torch.randint(max(later, 1), (len(held),), generator=generator)
        for step in range(later):
            parts[place + 1 + step].append(records.take(held[goes == step]))
    return _changed(stream, [_shuffled(_joined(part), generator) for part in parts])


def repeats(stream: Stream, share: float, seed: int) -> Stream:
    """Let a share of each experience's records arrive twice within it.

    Raises:
        ValueError: a share outside [0, 1].
    """
    _check("share", share, 0 <= share <= 1, "[0, 1]; 0.1 repeats a tenth")
    generator = torch.Generator().manual_seed(seed)

    def twice(records: Split) -> Split:
        again = torch.randperm(len(records.y), generator=generator)[: int(share * len(records.y))]
        return _shuffled(_joined([records, records.take(again)]), generator)

    return _changed(stream, [twice(experience.records) for experience in stream.experiences])


def wrong_labels(stream: Stream, share: float, seed: int) -> Stream:
    """Give a share of each experience's records the label of another class that has come by then.

    Args:
        stream: any.
        share: of the records whose label is wrong, in [0, 1]; none where there is one class so far.
        seed: of which, and of what is said instead.
    Raises:
        ValueError: a share outside its range.
    """
    _check("share", share, 0 <= share <= 1, "[0, 1]; 0.1 makes a tenth wrong")
    generator = torch.Generator().manual_seed(seed)
    come: list[int] = []
    parts = []
    for experience in stream.experiences:
        come += experience.classes
        records, known = experience.records, torch.tensor(come)
        wrong = torch.randperm(len(records.y), generator=generator)[: int(share * len(records.y))]
        y = records.y.clone()
        if len(known) > 1:
            # a step of 1 to K - 1 places further in the list of K classes never ends at the class itself
            place = (known[None] == y[wrong, None]).long().argmax(1)
            step = torch.randint(1, len(known), (len(wrong),), generator=generator)
            y[wrong] = known[(place + step) % len(known)]
        parts.append(Split(records.x, y))
    return _changed(stream, parts)


def typos(texts: Sequence[str], share: float, seed: int) -> list[str]:
    """Make one typing error in a share of the texts: two neighbouring letters change places, or one is left out.

    It is for texts before they are encoded. A text of fewer than two letters stays as it is.

    Raises:
        ValueError: a share outside [0, 1].
    """
    _check("share", share, 0 <= share <= 1, "[0, 1]; 0.1 is a tenth of the texts")
    generator = torch.Generator().manual_seed(seed)
    hit = set(torch.randperm(len(texts), generator=generator)[: int(share * len(texts))].tolist())
    found = []
    for index, text in enumerate(texts):
        draw = torch.randint(2**31, (2,), generator=generator).tolist()
        if index not in hit or len(text) < 2:
            found.append(text)
            continue
        at = draw[0] % (len(text) - 1)
        swapped = text[at + 1] + text[at] if draw[1] % 2 else text[at]
        found.append(text[:at] + swapped + text[at + 2 :])
    return found


def _changed(stream: Stream, parts: Sequence[Split]) -> Stream:
    """Return a stream with other records in its experiences."""
    pairs = zip(stream.experiences, parts, strict=True)
    return replace(stream, experiences=tuple(replace(experience, records=part) for experience, part in pairs))


def _joined(parts: Sequence[Split]) -> Split:
    """Return the records of all parts, one part after the other."""
    return Split(torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts]))


def _shuffled(records: Split, generator: torch.Generator) -> Split:
    """Return the records in another order."""
    order: Tensor = torch.randperm(len(records.y), generator=generator)
    return records.take(order)


def _check(name: str, value: float, right: bool, hint: str) -> None:
    """Refuse a number outside its range."""
    if not right:
        raise ValueError(f"{name} {value} must lie in {hint}")
