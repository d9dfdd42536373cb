"""What the rules that need the layer's input ask of it."""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.rules.shapes import as_matrix


def key_block(rule: str, key: Tensor | None, weights: Tensor) -> Tensor:
    """Return the keys as a block for each matrix, [..., T, in], in the type of the weights.

    Args:
        rule: its name, for the error.
        key: [..., T, in], or one key per matrix, [..., in].
        weights: [..., out, in]; a vector [n] counts as one row.
    Raises:
        ValueError: no key, or keys that do not fit the weights.
    """
    shape = as_matrix(weights).shape
    if key is None:
        raise ValueError(
            f"{rule} got no key; give the layer's inputs, [..., T, {shape[-1]}], or choose gd, which needs none"
        )
    block = key.unsqueeze(-2) if key.ndim == len(shape) - 1 else key
    if block.ndim != len(shape) or block.shape[:-2] != shape[:-2] or block.shape[-1] != shape[-1]:
        lead = "".join(f"{size}, " for size in shape[:-2])
        raise ValueError(
            f"{rule} got keys {tuple(key.shape)} for weights {tuple(weights.shape)}; [{lead}T, {shape[-1]}] or "
            f"[{lead}{shape[-1]}] is needed: give every matrix the inputs of its own layer"
        )
    return block.to(weights.dtype)


def one_key(rule: str, key: Tensor | None, weights: Tensor) -> Tensor:
    """Return the only key of each matrix, [..., 1, in].

    Raises:
        ValueError: no key, keys that do not fit the weights, or more than one.
    """
    block = key_block(rule, key, weights)
    if block.shape[-2] != 1:
        raise ValueError(
            f"{rule} got {block.shape[-2]} keys in one step; it takes one, from which it finds the value; "
            "call it once for each token"
        )
    return block


def error_of(grad: Tensor, key: Tensor) -> Tensor:
    """Return the e of a gradient e k^T, [..., 1, out]: grad k / |k|^2, and 0 where the key is 0.

    Args:
        grad: [..., out, in].
        key: [..., 1, in].
    """
    largest = key.detach().abs().amax(-1, keepdim=True)
    largest = torch.where(largest > 0, largest, 1.0)
    scaled = key / largest
    square = scaled.square().sum(-1, keepdim=True)
    return (scaled @ grad.mT) / torch.where(square > 0, square, 1.0) / largest
