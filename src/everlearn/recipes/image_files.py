"""Images from a folder with one subfolder for each class, or from a data set of the Hugging Face hub."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from everlearn.recipes.images import Images, deal

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".pgm", ".ppm")
# a part called "test" may come without classes, so it is the last choice
TEST_FOLDERS = ("validation", "valid", "val", "test")
TEST_SHARE = 0.1
MARGIN = 8 / 7  # an image is this much larger than what is cut out of it
EXTRA = "pip install 'everlearn[vision]'"


def to_tensor(picture: Any, channels: int) -> Tensor:
    """Return a picture of Pillow as a tensor, [C, H, W], uint8.

    Args:
        picture: of any mode.
        channels: 3 for colour, 1 for grey.
    """
    import numpy

    plain = numpy.asarray(picture.convert("RGB" if channels == 3 else "L"))
    return torch.from_numpy(plain.copy()).reshape(*plain.shape[:2], channels).permute(2, 0, 1)


def cut_out(image: Tensor, size: int, dice: torch.Generator | None) -> Tensor:
    """Bring an image to one size, from -1 to 1.

    Its shorter side becomes 8/7 of the size, and a square is cut out: the middle, or, where `dice` is given, one at
    random, mirrored half of the time.

    Args:
        image: [C, H, W], uint8.
        size: height and width that are wanted [pixels].
        dice: of what is random, or None.
    Returns:
        [C, size, size].
    """
    larger = round(size * MARGIN)
    height, width = image.shape[1:]
    scale = larger / min(height, width)
    # the shorter side is exact, the other at least as long
    shape = [max(larger, math.floor(side * scale + 0.5)) for side in (height, width)]
    grown = F.interpolate(image[None].float(), shape, mode="bilinear", antialias=True, align_corners=False)[0]
    spare = [side - size for side in shape]
    if dice is None:
        top, left = (room // 2 for room in spare)
        mirrored = False
    else:
        top, left = (int(torch.randint(room + 1, (), generator=dice)) for room in spare)
        mirrored = bool(torch.randint(2, (), generator=dice))
    square = grown[:, top : top + size, left : left + size]
    return (square.flip(-1) if mirrored else square).clamp(0, 255) / 127.5 - 1


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
    _pillow()
    tests = [path / name for name in TEST_FOLDERS if (path / name).is_dir()]
    if (path / "train").is_dir() and tests:
        train = _listed(path / "train")
        test = _listed(tests[0], least=1)
        if unknown := sorted(set(test) - set(train)):
            raise ValueError(
                f"{tests[0]} holds a class {unknown[0]!r} that {path / 'train'} lacks; both need the same: "
                "remove it, or give images of it to train on"
            )
    else:
        train, test = _held_out(_listed(path))
    classes = tuple(sorted(train))
    parts = [[(file, classes.index(name)) for name in sorted(part) for file in part[name]] for part in (train, test)]
    sha = hashlib.sha256(repr((image_size, channels)).encode())
    for part in parts:
        for file, label in part:
            sha.update(f"{file.relative_to(path).as_posix()}:{file.stat().st_size}:{label};".encode())
    read = partial(read_file, channels=channels)
    return _Lazy(classes, channels, image_size, parts[0], parts[1], read, sha.hexdigest())


def read_file(file: Path, channels: int) -> Tensor:
    """Return the image in a file, [C, H, W], uint8.

    Raises:
        ValueError: no image that Pillow can read.
    """
    image = _pillow()
    try:
        with image.open(file) as picture:
            return to_tensor(picture, channels)
    except (OSError, SyntaxError, ValueError, image.DecompressionBombError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"{file} cannot be read as an image ({reason}); a whole {', '.join(ENDINGS[:3])} or the like is needed; "
            "replace or remove the file"
        ) from None


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
    _pillow()
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


def _listed(path: Path, least: int = 2) -> dict[str, list[Path]]:
    """Return the image files of each class below a folder."""
    classes = sorted(place for place in path.iterdir() if place.is_dir() and not place.name.startswith("."))
    if len(classes) < least:
        got = f"only {classes[0].name!r}" if classes else "none"
        raise ValueError(
            f"{path} holds {got} of the subfolders that stand for classes; at least {least} are needed; "
            "put the images of each class into a subfolder of its own"
        )
    found = {}
    for place in classes:
        found[place.name] = sorted(file for file in place.rglob("*") if file.suffix.lower() in ENDINGS)
        if not found[place.name]:
            raise ValueError(
                f"{place} holds no image; a class needs files that end in {', '.join(ENDINGS)}; add some, or remove "
                "the subfolder"
            )
    return found


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


def _pillow() -> Any:
    """Return Pillow's module of images."""
    try:
        from PIL import Image
    except ImportError:
        raise ValueError(
            f"image files need Pillow, which is not installed; it is part of an extra: {EXTRA}; or train on digits"
        ) from None
    return Image
