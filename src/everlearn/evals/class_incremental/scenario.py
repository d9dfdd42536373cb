"""A data set as features, and the streams that can be made of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from everlearn.continual.features import RandomReLU
from everlearn.continual.image_sets import ImageSet
from everlearn.continual.stream_kinds import epochs, repeats, returning, typos, uneven, wrong_labels
from everlearn.continual.streams import Split, Stream, class_incremental, digits, grouped
from everlearn.continual.text_sets import TEXT_SETS, Rows, TextSet, clinc_mixed

Encode = Callable[[Sequence[str]], Tensor]
EncodeImages = Callable[[Sequence[Path]], Tensor]


@dataclass(frozen=True)
class Scenario:
    """Features of a data set's records, and how they arrive.

    Args:
        name: of the data set and of its split.
        labels: names of the classes; class c is labels[c].
        train: what arrives, x [N, D] float32.
        validation: what settings are chosen on; may be empty.
        test: what measures, once.
        per_experience: classes of an experience.
        batch_size: records that are learned at a time.
        domains: classes of each domain, or () where there are none.
        leaked: places in `test` whose text or image is learned as well.
    """

    name: str
    labels: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    per_experience: int
    batch_size: int
    domains: tuple[tuple[int, ...], ...] = ()
    leaked: tuple[int, ...] = ()

    @property
    def dim(self) -> int:
        """Return the length of a feature vector."""
        return self.train.x.shape[1]

    def dealt(self, per_experience: int) -> Scenario:
        """Return the scenario with another number of classes in an experience.

        Raises:
            ValueError: fewer than one, or more than there are.
        """
        if not 1 <= per_experience <= len(self.labels):
            raise ValueError(
                f"{per_experience} classes at a time cannot be dealt from the {len(self.labels)} of {self.name}; "
                f"give 1 to {len(self.labels)}"
            )
        return replace(self, per_experience=per_experience)

    def for_choosing(self) -> Scenario:
        """Return the scenario whose test records are the validation records: settings are chosen on it.

        Raises:
            ValueError: there are none.
        """
        if not len(self.validation.y):
            raise ValueError(f"{self.name} has no validation records; choose settings on another split or data set")
        return replace(self, test=self.validation, leaked=())


def tasks(scenario: Scenario, seed: int) -> Stream:
    """Return the standard stream: classes dealt at random, so many at a time."""
    return class_incremental(scenario.train, scenario.test, scenario.per_experience, seed)


def domains(scenario: Scenario, seed: int) -> Stream:
    """Return a stream of one domain after the other, whose classes resemble each other; the seed orders them.

    Raises:
        ValueError: the data set has no domains.
    """
    if not scenario.domains:
        raise ValueError(f"{scenario.name} has no domains; choose another stream, such as tasks")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(scenario.domains), generator=generator).tolist()
    return grouped(scenario.train, scenario.test, [scenario.domains[i] for i in order], generator)


def single(scenario: Scenario, seed: int) -> Stream:
    """Return a stream of one class at a time."""
    return class_incremental(scenario.train, scenario.test, 1, seed)


def joint(scenario: Scenario, seed: int) -> Stream:
    """Return all classes at once, shuffled."""
    return class_incremental(scenario.train, scenario.test, len(scenario.labels), seed)


# what the command line can ask for
STREAMS: dict[str, Callable[[Scenario, int], Stream]] = {
    "tasks": tasks,
    "domains": domains,
    "single": single,
    "joint": joint,
    "uneven": lambda scenario, seed: uneven(scenario.train, scenario.test, min(7, len(scenario.labels)), seed),
    "returning": lambda scenario, seed: returning(tasks(scenario, seed), 0.3, seed),
    "repeats": lambda scenario, seed: repeats(tasks(scenario, seed), 0.3, seed),
    "wrong-10": lambda scenario, seed: wrong_labels(tasks(scenario, seed), 0.1, seed),
    "wrong-20": lambda scenario, seed: wrong_labels(tasks(scenario, seed), 0.2, seed),
    "epochs-5": lambda scenario, seed: epochs(tasks(scenario, seed), 5, seed),
}


@dataclass(frozen=True)
class Shape:
    """What is fixed about the streams of a data set: classes of an experience, and records of a batch."""

    per_experience: int
    batch_size: int


SCENARIOS = {
    "clinc": Shape(15, 10),
    "clinc-mixed": Shape(15, 10),
    "banking": Shape(11, 10),
    "dbpedia": Shape(10, 10),
    "digits": Shape(2, 4),
}
IMAGE_BATCH = 10  # images of a folder that are learned at a time


def load(name: str, source: Path | None, encode: Encode | None, *, misspelt: float = 0.0, seed: int = 0) -> Scenario:
    """Return a scenario by its name.

    Args:
        name: a key of `SCENARIOS`; "clinc-mixed" is the split of InCA and KLDA, never to be mixed with "clinc".
        source: folder of the data; None asks the hub. The digits need neither.
        encode: texts -> features; the digits have 500 random features of their pixels.
        misspelt: share of the training texts that get a typing error.
        seed: of the typing errors.
    Raises:
        ValueError: the data is not there.
    """
    if name == "digits":
        return _digits()
    if encode is None:
        raise ValueError(f"{name} holds texts, which need an encoder; give one, such as HFEncoder()")
    return encoded(name, read_texts(name, source), encode, misspelt=misspelt, seed=seed)


def read_texts(name: str, source: Path | None) -> TextSet:
    """Return the texts of a scenario; see `load`."""
    if name != "clinc-mixed":
        return TEXT_SETS[name](source)
    if source is None:
        raise ValueError("the hub does not have the split of InCA and KLDA; give its folder")
    return clinc_mixed(source)


def _digits() -> Scenario:
    """Return the handwritten digits, as random features of their pixels."""
    features, shape = RandomReLU(64, 500, scale=1 / 16), SCENARIOS["digits"]
    train, validation, test = (Split(features(part.x), part.y) for part in digits())
    names = tuple(str(c) for c in range(10))
    return Scenario("digits", names, train, validation, test, shape.per_experience, shape.batch_size)


def encoded_images(images: ImageSet, encode: EncodeImages) -> Scenario:
    """Return the images of a folder as a scenario: a fifth of the classes at a time, and at least one.

    Args:
        images: what `image_folder` found.
        encode: image files -> features.
    Raises:
        ValueError: a file that is no image.
    """
    place = {label: c for c, label in enumerate(images.labels)}

    def split(rows: Sequence[tuple[Path, str]]) -> Split:
        labels = torch.tensor([place[label] for _, label in rows], dtype=torch.long)
        return Split(encode([file for file, _ in rows]), labels)

    train, validation, test = (split(rows) for rows in (images.train, images.validation, images.test))
    at_a_time = max(1, round(len(place) / 5))
    leaked = images.leaked()
    return Scenario(images.name, images.labels, train, validation, test, at_a_time, IMAGE_BATCH, leaked=leaked)


def encoded(name: str, texts: TextSet, encode: Encode, *, misspelt: float = 0.0, seed: int = 0) -> Scenario:
    """Encode every part of a text set; see `load`."""
    shape = SCENARIOS[name]
    place = {label: c for c, label in enumerate(texts.labels)}

    def split(rows: Rows, share: float = 0.0) -> Split:
        words = [text for text, _ in rows]
        x = encode(typos(words, share, seed) if share else words)
        return Split(x, torch.tensor([place[label] for _, label in rows], dtype=torch.long))

    return Scenario(
        texts.name,
        texts.labels,
        split(texts.train, misspelt),
        split(texts.validation),
        split(texts.test),
        shape.per_experience,
        shape.batch_size,
        domains=tuple(tuple(place[label] for label in labels) for labels in texts.domains.values()),
        leaked=texts.leaked(),
    )
