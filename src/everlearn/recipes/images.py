"""Images with classes, for training: digits that come with scikit-learn, tensors, and what they have in common."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from everlearn.continual.streams import deal


class Images(Protocol):
    """Images to train on and images to test on."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes."""
        ...

    @property
    def channels(self) -> int:
        """Return the channels of an image."""
        ...

    @property
    def image_size(self) -> int:
        """Return the height and width of an image [pixels]."""
        ...

    @property
    def train_count(self) -> int:
        """Return how many images there are to train on."""
        ...

    def train_batch(self, numbers: Tensor, dice: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return images [B, C, H, W] from -1 to 1 and classes [B] of these numbers; `dice` draws crops and flips."""
        ...

    def test_batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all test images and their classes, so many at a time, the same at every call."""
        ...

    def fingerprint(self) -> str:
        """Return a hash of what is trained and tested on."""
        ...


@dataclass(frozen=True)
class TensorImages:
    """Images that fit into memory.

    Args:
        classes: their names.
        train: images, [N, C, H, H], from -1 to 1.
        train_labels: [N] int64.
        test: like `train`.
        test_labels: like `train_labels`.
    """

    classes: tuple[str, ...]
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor

    @property
    def channels(self) -> int:
        """Return the channels of an image."""
        return self.train.shape[1]

    @property
    def image_size(self) -> int:
        """Return the height and width of an image [pixels]."""
        return self.train.shape[2]

    @property
    def train_count(self) -> int:
        """Return how many images there are to train on."""
        return len(self.train)

    def train_batch(self, numbers: Tensor, dice: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return images and classes as they are, without crops and flips."""
        return self.train[numbers], self.train_labels[numbers]

    def test_batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all test images and their classes."""
        yield from zip(self.test.split(size), self.test_labels.split(size), strict=True)

    def fingerprint(self) -> str:
        """Return a hash of all images and classes."""
        sha = hashlib.sha256(repr(self.classes).encode())
        for tensor in (self.train, self.train_labels, self.test, self.test_labels):
            sha.update(tensor.contiguous().numpy().tobytes())
        return sha.hexdigest()

    def for_search(self, seed: int = 1) -> TensorImages:
        """Return the training images alone, a quarter of them for testing: settings are searched on these."""
        fit, held = deal(self.train_labels.tolist(), 0.25, seed)
        return dataclasses.replace(
            self,
            train=self.train[fit],
            train_labels=self.train_labels[fit],
            test=self.train[held],
            test_labels=self.train_labels[held],
        )

    def with_label_noise(self, share: float, seed: int) -> TensorImages:
        """Return these images with a share of the training classes replaced by another class; the test stays clean.

        Args:
            share: how many get another class, in [0, 1].
            seed: of which and of what they become.
        Raises:
            ValueError: a share outside [0, 1].
        """
        if not 0 <= share <= 1:
            raise ValueError(f"label noise {share} is not a share; it must lie in [0, 1]; try 0.1")
        dice = torch.Generator().manual_seed(seed)
        wrong = torch.randperm(self.train_count, generator=dice)[: round(share * self.train_count)]
        shift = torch.randint(1, len(self.classes), (len(wrong),), generator=dice)
        labels = self.train_labels.clone()
        labels[wrong] = (labels[wrong] + shift) % len(self.classes)
        return dataclasses.replace(self, train_labels=labels)


def digits() -> TensorImages:
    """Return the 1,797 digits of 8 x 8 pixels that come with scikit-learn, a fifth of each class for testing."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(found.target, dtype=torch.long)
    train, test = deal(labels.tolist(), 0.2, 0)
    classes = tuple(str(name) for name in found.target_names)
    return TensorImages(classes, images[train], labels[train], images[test], labels[test])


# names of data sets that need no folder
BUILT_IN: dict[str, Callable[[], Images]] = {"digits": digits}
