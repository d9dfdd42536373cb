"""Images from a folder with one subfolder for each class, or from a data set of the Hugging Face hub."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everlearn.continual.image_files import EXTRA, cut_out, listed, pillow, read_file, to_tensor
from everlearn.continual.streams import deal
from everlearn.recipes.images import Images

# a part called "test" may come without classes, so it is the last choice
TEST_FOLDERS = ("validation", "valid", "val", "test")
TEST_SHARE = 0.1


@dataclass(frozen=True)
class _Lazy:
    """Images that are read when they are asked for; `read` gives one, [C, H, W] uint8."""

    classes: tuple[str, ...]
    channels: int
    image_size: int
    train: list[tuple[Any, int]]
    test: list[tuple[Any, int]]
    read: Callable[[Any], Tensor]
    identity: str

    @property
    def train_count(self) -> int:
        return len(self.train)

    def train_batch(self, numbers: Tensor, dice: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = [self.train[number] for number in numbers.tolist()]
        return self._stack(chosen, dice)

    def test_batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.test), size):
            yield self._stack(self.test[start : start + size], None)

    def fingerprint(self) -> str:
        return self.identity

    def _stack(self, chosen: list[tuple[Any, int]], dice: torch.Generator | None) -> tuple[Tensor, Tensor]:
        images = [cut_out(self.read(place), self.image_size, dice) for place, _ in chosen]
        return torch.stack(images), torch.tensor([label for _, label in chosen])


def folder(path: Path, image_size: int, channels: int = 3) -> Images:
    """Return the images of a folder with one subfolder for each class.

    Where it holds `train` and one of `validation`, `valid`, `val` or `test`, with the classes below them, these are
    the two parts; else a tenth of each class, at least one image, is for testing. Files are read when they are asked
    for, and known by their names and sizes.

    Args:
        path: of the folder.
        image_size: height and width to bring them to [pixels].
        channels: 3 for colour, 1 for grey.
    Raises:
        ValueError: no such folder, fewer than two classes, a class without an image, a class of one image where a part
            has to be held out, Pillow is missing, or, when it is read, a file that is no image.
    """
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"{path} is no folder; images are read from one with a subfolder for each class; name it")
    pillow()
    tests = [path / name for name in TEST_FOLDERS if (path / name).is_dir()]
    if (path / "train").is_dir() and tests:
        train = listed(path / "train")
        test = listed(tests[0], least=1)
        if unknown := sorted(set(test) - set(train)):
            raise ValueError(
                f"{tests[0]} holds a class {unknown[0]!r} that {path / 'train'} lacks; both need the same: "
                "remove it, or give images of it to train on"
            )
    else:
        train, test = _held_out(listed(path))
    classes = tuple(sorted(train))
    parts = [[(file, classes.index(name)) for name in sorted(part) for file in part[name]] for part in (train, test)]
    sha = hashlib.sha256(repr((image_size, channels)).encode())
    for part in parts:
        for file, label in part:
            sha.update(f"{file.relative_to(path).as_posix()}:{file.stat().st_size}:{label};".encode())
    read = partial(read_file, channels=channels)
    return _Lazy(classes, channels, image_size, parts[0], parts[1], read, sha.hexdigest())


def hub(name: str, image_size: int, channels: int = 3) -> Images:
    """Return the images of a data set of the Hugging Face hub, such as "ethz/food101".

    Its parts are `train` and one of `validation`, `valid`, `val` or `test`; where there is none of them, a tenth of
    each class of `train` is for testing. What is downloaded is kept by `datasets` where it keeps such things.

    Args:
        name: of the data set, as in its address.
        image_size: height and width to bring them to [pixels].
        channels: 3 for colour, 1 for grey.
    Raises:
        ValueError: `datasets` is missing, the data set cannot be had, or has no column of images or of classes.
    """
    datasets, parts = _loaded(name)
    pillow()
    train = parts["train"]
    picture = _column(train.features, datasets.Image, name, "images")
    label = _column(train.features, datasets.ClassLabel, name, "classes")
    held = next((parts[part] for part in TEST_FOLDERS if part in parts), None)
    if held is None:
        first, second = deal(train[label], TEST_SHARE, 0)
        train, held = train.select(first.tolist()), train.select(second.tolist())
    sha = hashlib.sha256(repr((name, image_size, channels, len(train), len(held))).encode())
    places = [[((rows, i), int(at)) for i, at in enumerate(rows[label])] for rows in (train, held)]

    def read(place: tuple[Any, int]) -> Tensor:
        rows, number = place
        return to_tensor(rows[number][picture], channels)

    names = tuple(train.features[label].names)
    return _Lazy(names, channels, image_size, places[0], places[1], read, sha.hexdigest())


def _loaded(name: str) -> tuple[Any, Mapping[str, Any]]:
    """Return the module `datasets`, and the parts of a data set."""
    try:
        import datasets
    except ImportError:
        raise ValueError(
            f"the data set {name!r} needs the package datasets, which is not installed; it is part of an extra: {EXTRA}"
        ) from None
    try:
        parts = datasets.load_dataset(name)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"the data set {name!r} cannot be had ({reason}); a public one, or one that your token may read, is "
            "needed: check its name, the network and `hf auth login`"
        ) from None
    if "train" not in parts:
        raise ValueError(
            f"the data set {name!r} has no part 'train', but {', '.join(parts)}; one to train on is needed; choose "
            "another"
        )
    return datasets, parts


def _column(features: Mapping[str, Any], kind: type, name: str, what: str) -> str:
    """Return the first column of a kind."""
    for column, feature in features.items():
        if isinstance(feature, kind):
            return column
    raise ValueError(
        f"the data set {name!r} has no column of {what}, but {', '.join(features)}; one of {kind.__name__} is needed; "
        "choose a data set for image classification"
    )


def _held_out(found: dict[str, list[Path]]) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Hold out a part of each class."""
    train, test = {}, {}
    for name, files in found.items():
        if len(files) < 2:
            raise ValueError(
                f"{files[0].parent} holds 1 image, and one of each class is held out for testing; at least 2 are "
                "needed; add some, or give folders `train` and `test`"
            )
        first, second = deal([0] * len(files), TEST_SHARE, 0)
        train[name], test[name] = [files[i] for i in first.tolist()], [files[i] for i in second.tolist()]
    return train, test
