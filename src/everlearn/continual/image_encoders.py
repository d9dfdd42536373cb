"""Images as features: random features of small squares, or a pretrained vision model that stays as it is."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from everlearn.continual.features import RandomReLU
from everlearn.continual.image_files import cut_out, pillow, read_file
from everlearn.memory.codec import digest
from everlearn.models.hub import load_pretrained

BATCH = 16
Item = Path | str | Tensor


def opened(item: Item) -> Tensor:
    """Return an item as an image in colour, [3, H, W] uint8.

    Args:
        item: an image file, or an image already, [C, H, W] uint8 with one channel or three.
    Raises:
        ValueError: a file that is no image, or a tensor of another shape or dtype.
    """
    if not isinstance(item, Tensor):
        return read_file(Path(item), channels=3)
    if item.ndim != 3 or item.shape[0] not in (1, 3) or item.dtype != torch.uint8 or not item.numel():
        raise ValueError(
            f"an image has the shape {tuple(item.shape)} and dtype {item.dtype}; [1, H, W] or [3, H, W] uint8 is "
            "needed, or the path of an image file"
        )
    return item.expand(3, *item.shape[1:])


class RandomPixels:
    """Bring images to a small square and project its pixels at random: `RandomReLU` of [0, 1] in three colours.

    The whole image is used: its shorter side becomes the square's, and what is longer is cut on both sides. It knows
    where light and colour are, not what is shown; for that take `HFImageEncoder`.

    Args:
        side: of the square [pixels].
        dim: number of features.
        seed: of the projection.
    Raises:
        ValueError: a size below one.
    """

    def __init__(self, side: int = 32, dim: int = 500, *, seed: int = 0) -> None:
        if side < 1:
            raise ValueError(f"side {side} leaves nothing of an image; give a number of pixels >= 1, such as 32")
        self.side, self.dim, self.seed = side, dim, seed
        self._project = RandomReLU(3 * side * side, dim, seed=seed)

    def __call__(self, items: Sequence[Item]) -> Tensor:
        """Return features, [B, dim] float32.

        Args:
            items: see `opened`.
        """
        if not len(items):
            return torch.zeros(0, self.dim)
        squares = [cut_out(opened(item), self.side, None, margin=1.0) for item in items]
        return self._project((torch.stack(squares) + 1) / 2)

    def settings(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"kind": "random_pixels", "side": self.side, "dim": self.dim, "seed": self.seed}


class HFImageEncoder:
    """Encode images by hidden layers of a vision model of Hugging Face, each the mean over its patches.

    Each layer is pooled, brought to norm sqrt(D), so that its features have unit size, and set beside the others. What
    stands before the patches, a class token or registers, is left out; maps of a convolutional model are pooled over
    height and width. Of a model of images and texts, such as CLIP, the vision part answers.

    Args:
        name_or_path: a folder that `save_pretrained` wrote, of model and image processor, or a name on the hub.
        layers: hidden layers, as indices of `hidden_states`: -1 is the last, 0 what the embedding gives.
        device: where it runs; features come back to the CPU.
    Raises:
        ValueError: no model there, one that takes no images or has no such layer, or a missing library.
    """

    def __init__(
        self, name_or_path: str | Path, *, layers: Sequence[int] = (-2, -1), device: torch.device | str = "cpu"
    ) -> None:
        from transformers import AutoImageProcessor, AutoModel

        pillow()
        model, self._processor = load_pretrained(
            name_or_path, AutoModel, "vision model", beside=AutoImageProcessor, beside_name="image processor"
        )
        # of two towers the one that sees
        tower: Any = dict(model.named_children()).get("vision_model", model)
        self._model: nn.Module = tower.float().requires_grad_(False).to(device)
        self._patch = _sides(vars(tower.config).get("patch_size"))
        self.layers = tuple(layers)
        self.dim = self._measured(name_or_path)

    @torch.no_grad()
    def __call__(self, items: Sequence[Item]) -> Tensor:
        """Return features, [B, dim] float32.

        Args:
            items: see `opened`.
        """
        found = torch.zeros(len(items), self.dim)
        for start in range(0, len(items), BATCH):
            inputs = [self._prepared(opened(item)) for item in items[start : start + BATCH]]
            # a processor may leave images at sizes of their own
            groups: dict[torch.Size, list[int]] = {}
            for place, pixels in enumerate(inputs):
                groups.setdefault(pixels.shape, []).append(place)
            for same in groups.values():
                pixels = torch.stack([inputs[place] for place in same])
                found[torch.tensor(same) + start] = self._features(pixels, self._hidden(pixels))
        return found

    def settings(self) -> dict[str, Any]:
        """Return what identifies it: a hash of the weights and of the processor's settings."""
        return {"kind": "hugging_face_image", "sha256": self._hash, "layers": list(self.layers)}

    @functools.cached_property
    def _hash(self) -> str:
        prepare = {name: value for name, value in self._processor.to_dict().items() if name != "image_processor_type"}
        weights = {name: tensor.cpu() for name, tensor in self._model.state_dict().items()}
        return digest(weights, json.dumps(prepare, sort_keys=True, default=str))

    def _measured(self, name: str | Path) -> int:
        """Return the length of a feature vector, as one grey image gives it."""
        try:
            with torch.no_grad():
                pixels = self._prepared(torch.full((3, 64, 64), 128, dtype=torch.uint8))[None]
                hidden = self._hidden(pixels)
        except (TypeError, ValueError, AttributeError, KeyError, RuntimeError) as error:
            why = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"{name} gives no hidden layers of an image ({why}); give a vision model, such as facebook/dinov2-small"
            ) from None
        count = len(hidden)
        wrong = [layer for layer in self.layers if not -count <= layer < count]
        if wrong or not self.layers:
            raise ValueError(
                f"layers {self.layers} are not layers of {name}, which has {count - 1}; "
                f"give some of 0 to {count - 1}, or -1 to {-count} counted from the last"
            )
        return self._features(pixels, hidden).shape[1]

    def _prepared(self, image: Tensor) -> Tensor:
        """Return an image as the model takes it, [3, H, W] float32."""
        picture = pillow().fromarray(image.permute(1, 2, 0).contiguous().numpy())
        pixels: Tensor = self._processor(images=[picture], return_tensors="pt")["pixel_values"][0]
        return pixels

    def _hidden(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Return what every layer makes of images, [B, 3, H, W]."""
        device = next(self._model.parameters()).device
        return tuple(self._model(pixel_values=pixels.to(device), output_hidden_states=True).hidden_states)

    def _features(self, pixels: Tensor, hidden: tuple[Tensor, ...]) -> Tensor:
        """Return the chosen layers side by side, each its mean over the patches at norm sqrt(D)."""
        patches = (pixels.shape[2] // self._patch[0]) * (pixels.shape[3] // self._patch[1])
        parts = []
        for layer in self.layers:
            found = hidden[layer]
            # the patches come last; a layer that has merged some holds nothing else
            pooled = found.mean((2, 3)) if found.ndim == 4 else found[:, -patches:].mean(1)
            parts.append(nn.functional.normalize(pooled, dim=-1) * pooled.shape[-1] ** 0.5)
        return torch.cat(parts, -1).cpu()


def _sides(size: Any) -> tuple[int, int]:
    """Return height and width of a patch; every pixel is one where a model names none."""
    height, width = (size, size) if isinstance(size, int) else (size or (1, 1))
    return int(height), int(width)
