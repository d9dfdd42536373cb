"""Image files: the classes of a folder, one file as a tensor, and the square that is cut out of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".pgm", ".ppm")
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


def cut_out(image: Tensor, size: int, dice: torch.Generator | None, margin: float = MARGIN) -> Tensor:
    """Bring an image to one size, from -1 to 1.

    Its shorter side becomes 8/7 of the size, and a square is cut out: the middle, or, where `dice` is given, one at
    random, mirrored half of the time.

    Args:
        image: [C, H, W], uint8.
        size: height and width that are wanted [pixels].
        dice: of what is random, or None.
        margin: how much larger than the square the shorter side becomes, >= 1; 1 cuts from the longer side alone.
    Returns:
        [C, size, size].
    """
    larger = round(size * margin)
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


def read_file(file: Path, channels: int) -> Tensor:
    """Return the image in a file, [C, H, W], uint8.

    Raises:
        ValueError: no image that Pillow can read.
    """
    image = pillow()
    try:
        with image.open(file) as picture:
            return to_tensor(picture, channels)
    except (OSError, SyntaxError, ValueError, image.DecompressionBombError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"{file} cannot be read as an image ({reason}); a whole {', '.join(ENDINGS[:3])} or the like is needed; "
            "replace or remove the file"
        ) from None


def listed(path: Path, least: int = 2) -> dict[str, list[Path]]:
    """Return the image files of each class below a folder, by the name of its subfolder, sorted; hidden ones are not.

    Args:
        path: of the folder.
        least: classes that are needed.
    Raises:
        ValueError: fewer classes, or one without an image.
    """
    classes = sorted(place for place in path.iterdir() if place.is_dir() and not place.name.startswith("."))
    if len(classes) < least:
        got = f"only {classes[0].name!r}" if classes else "none"
        raise ValueError(
            f"{path} holds {got} of the subfolders that stand for classes; at least {least} are needed; "
            "put the images of each class into a subfolder of its own"
        )
    found = {}
    for place in classes:
        found[place.name] = sorted(file for file in place.rglob("*") if _is_image(file))
        if not found[place.name]:
            raise ValueError(
                f"{place} holds no image; a class needs files that end in {', '.join(ENDINGS)}; add some, or remove "
                "the subfolder"
            )
    return found


def _is_image(file: Path) -> bool:
    """Tell whether a file's name is that of an image; what other systems leave behind begins with a point."""
    return file.suffix.lower() in ENDINGS and not file.name.startswith(".")


def pillow() -> Any:
    """Return Pillow's module of images.

    Raises:
        ValueError: it is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise ValueError(
            f"image files need Pillow, which is not installed; it is part of an extra: {EXTRA}; the built-in "
            "digits do without"
        ) from None
    return Image
