"""A plain vision Transformer, to try optimizers on: patches, learned positions, pre-norm blocks, mean pooling."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everlearn.levels import Component
from everlearn.levels.component import FORWARDS


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Shape of one vision Transformer; `vit_sizes` has ready-made ones.

    Args:
        image_size: height and width of an image [pixels]; a multiple of patch_size.
        patch_size: height and width of a patch [pixels].
        channels: of an image; 1 for grey, 3 for colour.
        num_classes: what it tells apart, >= 2.
        dim: size of the residual stream.
        num_layers: number of blocks.
        num_heads: heads of the attention; divides dim.
        hidden_dim: hidden size of the MLP.
    Raises:
        ValueError: sizes that do not fit each other.
    """

    image_size: int = 8
    patch_size: int = 2
    channels: int = 1
    num_classes: int = 10
    dim: int = 64
    num_layers: int = 4
    num_heads: int = 4
    hidden_dim: int = 256

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 2 if name == "num_classes" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {least}; give one")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"patch_size {self.patch_size} does not divide image_size {self.image_size}; the patches must cover "
                f"the image: set image_size={-(-self.image_size // self.patch_size) * self.patch_size}"
            )
        if self.dim % self.num_heads:
            raise ValueError(
                f"num_heads {self.num_heads} does not divide dim {self.dim}; every head must have one size: "
                f"set dim={-(-self.dim // self.num_heads) * self.num_heads}"
            )

    @property
    def num_patches(self) -> int:
        """Return how many patches cover an image."""
        return (self.image_size // self.patch_size) ** 2

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return dataclasses.asdict(self)


# width, hidden size and patches of the paper's two; it says no depth: 12 blocks make 86M, and 13 come nearest to 24M
# (12, the usual number at that width, make 21.8M)
_PAPER = {"image_size": 224, "patch_size": 16, "channels": 3}
VIT_SIZES: dict[str, dict[str, int]] = {
    "tiny": {"dim": 64, "num_layers": 4, "num_heads": 4, "hidden_dim": 256},
    "24M": {**_PAPER, "dim": 384, "num_layers": 13, "num_heads": 6, "hidden_dim": 1536},
    "86M": {**_PAPER, "dim": 768, "num_layers": 12, "num_heads": 12, "hidden_dim": 3072},
}


def vit_sized(size: str = "tiny", **changes: Any) -> ViTConfig:
    """Return the config of a size.

    Args:
        size: a key of `VIT_SIZES`: "tiny", 0.2M parameters for images of 8 x 8 pixels; "24M" and "86M", for 224 x 224.
        changes: any field of `ViTConfig`.
    Raises:
        ValueError: an unknown size, or fields that do not fit each other.
    Example:
        >>> vit_sized("86M", num_classes=1000).num_patches
        196
    """
    if size not in VIT_SIZES:
        raise ValueError(f"size {size!r} is unknown; the sizes are {', '.join(VIT_SIZES)}; choose one of them")
    return ViTConfig(**{**VIT_SIZES[size], **changes})


class PatchAttention(nn.Module):
    """Attend from every patch of an image to every other.

    `layers.Attention` is causal and counts positions along a stream; an image has neither an order nor a stream.

    Args:
        dim: size of the input and of the output.
        num_heads: divides dim.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.dim, self.num_heads = dim, num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map x, [B, T, dim], to [B, T, dim]."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def components(self) -> list[Component]:
        """Return the keys and values of one image, gone after its forward pass, and the projections."""
        patches = Component(
            name="",
            kind="attention",
            update_period=1,
            unit=FORWARDS,
            token_bytes=2 * self.dim * self.qkv.weight.element_size(),
            carried=False,
            objective="kernel regression on its values",
            rule="keep every patch",
            context_flow="patches of the image",
            conditioned_on=("qkv",),
        )
        return [patches, Component(name="", kind="projections", owns=("qkv", "out"))]


class ViTBlock(nn.Module):
    """Mix patches, then look into the MLP, each beside the residual stream."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.dim)
        self.attention = PatchAttention(config.dim, config.num_heads)
        self.mlp_norm = nn.LayerNorm(config.dim)
        self.mlp = nn.Sequential(
            nn.Linear(config.dim, config.hidden_dim), nn.GELU(), nn.Linear(config.hidden_dim, config.dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map x, [B, T, dim], to [B, T, dim]."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class ViT(nn.Module):
    """A vision Transformer that tells images apart.

    The patches are averaged before the head. A class token would be one more thing to learn, and gets the gradient of
    an image through attention alone; the mean gives every patch its share from the first step, which suits few images
    and short runs. The MLP has two matrices, not the three of the decoder's SwiGLU: with the hidden sizes of the paper
    that is what makes 86M parameters.

    Args:
        config: see `ViTConfig`; `vit_sized` makes common ones.
    Example:
        >>> ViT(ViTConfig(dim=8, num_layers=1, num_heads=1, hidden_dim=8))(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.patches = nn.Linear(config.channels * config.patch_size**2, config.dim)
        self.positions = nn.Parameter(torch.empty(config.num_patches, config.dim))
        self.blocks = nn.ModuleList(ViTBlock(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.dim)
        self.head = nn.Linear(config.dim, config.num_classes)
        nn.init.normal_(self.positions, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of each image.

        Args:
            images: [B, channels, image_size, image_size], roughly from -1 to 1.
        Returns:
            [B, num_classes].
        Raises:
            ValueError: images of another shape.
        """
        c = self.config
        wanted = (c.channels, c.image_size, c.image_size)
        if images.ndim != 4 or images.shape[1:] != wanted:
            raise ValueError(
                f"images have the shape {tuple(images.shape)}; this model takes [B, {', '.join(map(str, wanted))}]; "
                "resize them, or build the model with their size"
            )
        x = self.patches(cut(images, c.patch_size)) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))

    def components(self) -> list[Component]:
        """Return what turns an image into tokens; the blocks and their layers answer for themselves."""
        return [Component(name="", kind="embedding", owns=("patches", "positions"))]


def cut(images: Tensor, patch_size: int) -> Tensor:
    """Cut images into patches, row by row: [B, C, H, W] -> [B, T, C patch_size^2].

    Followed by a linear layer this is a convolution of the same width and stride, and the layer's input is at hand for
    rules that need keys.
    """
    b, c, height, width = images.shape
    p = patch_size
    grid = images.reshape(b, c, height // p, p, width // p, p)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(b, (height // p) * (width // p), c * p * p)
