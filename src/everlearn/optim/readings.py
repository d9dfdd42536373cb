"""How layers read: what multiplies their weight, and the weight as matrices that it multiplies."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from everlearn.rules.directions import directions


class Reading(ABC):
    """One layer as matrices [..., out, in] that multiply keys [..., T, in].

    Args:
        name: of the layer in its model.
        layer: whose `weight` is meant.
    """

    looks_up = False

    def __init__(self, name: str, layer: nn.Module) -> None:
        self.name, self.layer = name, layer
        # as the optimizer knows it: during a pass FSDP shows another tensor in its place
        self.weight: Tensor = layer.get_parameter("weight")

    @abstractmethod
    def keys(self, x: Tensor) -> Tensor:
        """Return what multiplies the weight, [..., T, in]."""

    @abstractmethod
    def nothing(self) -> Tensor:
        """Return an input without any key."""

    @abstractmethod
    def matrices(self, weight: Tensor) -> Tensor:
        """Return the weight, or what has its shape, as [..., out, in], in the same memory where that is possible."""

    def total(self, x: Tensor) -> tuple[Tensor, int]:
        """Return the sum over the keys of x x^T / |x|^2, [..., in, in], and how many keys there are."""
        rows = directions(self.keys(x))
        return rows.mT @ rows, rows.shape[-2]


class LinearReading(Reading):
    """A linear layer reads its input as it is."""

    def keys(self, x: Tensor) -> Tensor:
        """Return what multiplies the weight."""
        return x.detach().flatten(0, -2) if x.ndim > 1 else x.detach()[None]

    def nothing(self) -> Tensor:
        """Return an input without any key."""
        return torch.zeros(0, self.weight.shape[1], dtype=self.weight.dtype, device=self.weight.device)

    def matrices(self, weight: Tensor) -> Tensor:
        """Return the matrices that multiply the keys."""
        return weight


class ConvolutionReading(Reading):
    """A convolution reads patches: [out, in * kernel], or for groups [groups, out / groups, in / groups * kernel]."""

    def __init__(self, name: str, layer: nn.modules.conv._ConvNd) -> None:
        super().__init__(name, layer)
        self.conv = layer

    def keys(self, x: Tensor) -> Tensor:
        """Return what multiplies the weight."""
        conv, dims = self.conv, len(self.conv.kernel_size)
        x = x.detach()
        x = x if x.ndim == dims + 2 else x[None]
        mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        x = nn.functional.pad(x, _margins(conv), mode=mode)
        for axis, (size, step, gap) in enumerate(zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)):
            x = x.unfold(2 + axis, (size - 1) * gap + 1, step)[..., ::gap]
        # [B, channels, places..., kernel...] -> [groups, B * places, channels / groups * kernel]
        batch, channels, *places = x.shape[: 2 + dims]
        x = x.reshape(batch, conv.groups, channels // conv.groups, math.prod(places), *conv.kernel_size)
        x = x.movedim(3, 2).movedim(1, 0).flatten(3).flatten(1, 2)
        return x if conv.groups > 1 else x[0]

    def nothing(self) -> Tensor:
        """Return an input without any key."""
        spans = [(size - 1) * gap + 1 for size, gap in zip(self.conv.kernel_size, self.conv.dilation, strict=True)]
        weight = self.weight
        return torch.zeros(0, self.conv.in_channels, *spans, dtype=weight.dtype, device=weight.device)

    def matrices(self, weight: Tensor) -> Tensor:
        """Return the matrices that multiply the keys."""
        groups = self.conv.groups
        return weight.flatten(1) if groups == 1 else weight.reshape(groups, weight.shape[0] // groups, -1)


class EmbeddingReading(Reading):
    """An embedding reads one-hot keys: one matrix [dim, 1] for each token, whose moment is the token's frequency."""

    looks_up = True

    def __init__(self, name: str, layer: nn.Embedding) -> None:
        super().__init__(name, layer)
        self.embedding = layer

    def keys(self, x: Tensor) -> Tensor:
        """Return what multiplies the weight."""
        tokens = torch.arange(self.embedding.num_embeddings, device=x.device)
        counted = (x.flatten() == tokens[:, None]) & (tokens[:, None] != self._padding())
        return counted.unsqueeze(-1).to(self.weight.dtype)

    def nothing(self) -> Tensor:
        """Return an input without any key."""
        return torch.zeros(0, dtype=torch.long, device=self.weight.device)

    def matrices(self, weight: Tensor) -> Tensor:
        """Return the matrices that multiply the keys."""
        return weight.unsqueeze(-1)

    def total(self, x: Tensor) -> tuple[Tensor, int]:
        """Return the frequencies of the tokens, and how many were read."""
        counts = torch.bincount(x.flatten(), minlength=self.embedding.num_embeddings)
        if self.embedding.padding_idx is not None:
            counts[self._padding()] = 0
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        return counts.to(dtype)[:, None, None], x.numel()

    def _padding(self) -> int:
        """Return the token that has no gradient, or -1."""
        index = self.embedding.padding_idx
        return -1 if index is None else index


def reading_of(name: str, layer: nn.Module) -> Reading | None:
    """Return how a layer reads, or None for a kind that is not known."""
    if isinstance(layer, nn.Linear):
        return LinearReading(name, layer)
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return ConvolutionReading(name, layer)
    if isinstance(layer, nn.Embedding):
        return EmbeddingReading(name, layer)
    return None


def _margins(conv: nn.modules.conv._ConvNd) -> list[int]:
    """Return the padding as `nn.functional.pad` takes it: before and after, the last dimension first."""
    sides = []
    for axis, (size, gap) in enumerate(zip(conv.kernel_size, conv.dilation, strict=True)):
        if isinstance(conv.padding, str):
            both = gap * (size - 1) if conv.padding == "same" else 0
            sides.append([both // 2, both - both // 2])
        else:
            sides.append([conv.padding[axis]] * 2)
    return [margin for side in reversed(sides) for margin in side]
