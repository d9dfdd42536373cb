"""Labelled images in a folder with one subfolder for each class, dealt to learn, to choose on, and to measure on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from everlearn.continual.image_files import listed
from everlearn.continual.streams import SPLIT_SEED, deal

VALIDATION_FOLDERS = ("validation", "valid", "val")
TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1

Rows = tuple[tuple[Path, str], ...]  # (file, label)


@dataclass(frozen=True)
class ImageSet:
    """Labelled image files.

    Args:
        name: of the folder.
        train: rows to learn.
        validation: rows to choose settings on.
        test: rows to measure on, once.
    """

    name: str
    train: Rows
    validation: Rows
    test: Rows

    @property
    def labels(self) -> tuple[str, ...]:
        """Return all labels, sorted; a class is a place in this list."""
        return tuple(sorted({label for _, label in self.train}))

    def leaked(self) -> tuple[int, ...]:
        """Return the test rows whose file, byte for byte, is also a training or validation file."""
        learned = {fingerprint(file) for file, _ in (*self.train, *self.validation)}
        return tuple(i for i, (file, _) in enumerate(self.test) if fingerprint(file) in learned)


def fingerprint(file: Path) -> str:
    """Return a hash of a file's content."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def image_folder(path: Path) -> ImageSet:
    """Return the images of a folder with one subfolder for each class.

    Where it holds `train` and `test` (or else `validation`, `valid` or `val`), with the classes below them, these are
    the two parts, and settings are chosen on a third part of these names, or on an eighth of each class of `train`.
    Otherwise each class is dealt, always in the same way: a fifth to measure on, a tenth to choose on, the rest to
    learn, and at least one image each.

    Raises:
        ValueError: no such folder, fewer than two classes, or a class with too few images to deal.
    """
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"{path} is no folder; images are read from one with a subfolder for each class; name it")
    parts = [path / name for name in ("test", *VALIDATION_FOLDERS) if (path / name).is_dir()]
    if (path / "train").is_dir() and parts:
        train, test = listed(path / "train"), listed(parts[0])
        _check_same(path / "train", train, parts[0], test)
        if len(parts) > 1:
            validation = listed(parts[1])
            _check_same(path / "train", train, parts[1], validation)
        else:
            train, validation = _dealt(train, VALIDATION_SHARE / (1 - TEST_SHARE), 2)
    else:
        rest, test = _dealt(listed(path), TEST_SHARE, 3)
        train, validation = _dealt(rest, VALIDATION_SHARE / (1 - TEST_SHARE), 2)
    return ImageSet(path.resolve().name or "images", _rows(train), _rows(validation), _rows(test))


def _check_same(train: Path, known: dict[str, list[Path]], other: Path, found: dict[str, list[Path]]) -> None:
    """Refuse parts whose classes differ."""
    for name in sorted(set(known) ^ set(found)):
        has, lacks = (train, other) if name in known else (other, train)
        raise ValueError(
            f"{has} holds a class {name!r} that {lacks} lacks; both need the same classes; add images of it there, or "
            "remove it here"
        )


def _dealt(
    found: dict[str, list[Path]], share: float, least: int
) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Deal the files of each class into two parts."""
    first, second = {}, {}
    for name, files in found.items():
        if len(files) < least:
            parts = "to learn, to choose settings on and to measure on" if least == 3 else "to learn and to choose on"
            raise ValueError(
                f"class {name!r} in {files[0].parent} has {len(files)} image{'s' if len(files) > 1 else ''}; at least "
                f"{least} are needed, {parts}; add some, or remove the class"
            )
        rest, held = deal([0] * len(files), share, SPLIT_SEED)
        first[name], second[name] = [files[i] for i in rest.tolist()], [files[i] for i in held.tolist()]
    return first, second


def _rows(found: dict[str, list[Path]]) -> Rows:
    """Return (file, label) for all files of all classes."""
    return tuple((file, name) for name, files in found.items() for file in files)
