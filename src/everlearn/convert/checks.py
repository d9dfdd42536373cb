"""What a model is asked before levels are stacked on it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicLayer
from transformers.pytorch_utils import Conv1D

from everlearn.convert.families import Matrix, is_matrix, shape_of
from everlearn.convert.wrapped import can_merge

MEAN_ROUNDS = 1e-4  # of the largest logit: what a mean of three copies may change


def check_merged(model: nn.Module, matrices: Sequence[Matrix]) -> None:
    """Refuse to merge into matrices whose weights are not at hand as plain numbers."""
    for matrix in matrices:
        if not can_merge(module := model.get_submodule(matrix.name)):
            raise ValueError(
                f"merged=True needs plain matrices without hooks, but {matrix.name!r} is a {type(module).__name__}, "
                "which is quantised or does more when it is called; leave merged=None"
            )


def check_gradients(model: nn.Module, matrices: Sequence[Matrix]) -> None:
    """Refuse a model in which no gradient reaches the first chosen matrix: a quantised one may let none through.

    Modules are taken in the order in which the model holds them, which in decoders is that of their use.
    """
    first = {matrix.name for matrix in matrices}
    behind = False
    for name, module in model.named_modules():
        if behind and is_matrix(module) and not _lets_gradients_through(module):
            raise ValueError(
                f"{name!r}, a {type(module).__name__}, lets no gradient through, so that what stands before it cannot "
                "learn; choose weights='last_down', or another way to quantise"
            )
        behind = behind or name in first


def check_output(model: nn.Module, output: Any, *, hybrid: bool = False) -> Tensor:
    """Return the logits of what a model gave for a probe; a hybrid may have a memory in the place of every attention.

    Raises:
        ValueError: they are not finite, or the model remembers otherwise than by keys and values.
    """
    cache = getattr(output, "past_key_values", None)
    if (
        cache is None
        or not (cache.layers or hybrid)
        or not all(isinstance(layer, DynamicLayer) for layer in cache.layers)
    ):
        raise ValueError(
            f"{type(model).__name__} keeps no keys and values in each layer, which a state needs to carry its context; "
            "choose a model whose layers are all attention"
        )
    if not bool(torch.isfinite(output.logits).all()):
        raise ValueError(
            f"{type(model).__name__} gives logits that are not finite before anything was changed; "
            "load its weights again, or give another probe"
        )
    return output.logits


def check_same(before: Tensor, after: Tensor, *, exact: bool) -> str:
    """Compare logits before and after; return what is wrong, or an empty text."""
    largest = float((before - after).abs().max())
    same = torch.equal(before, after) if exact else largest <= MEAN_ROUNDS * float(before.abs().max())
    return "" if same else f"would change by up to {largest:.1e}"


def _lets_gradients_through(module: nn.Module) -> bool:
    """Try one product; matrices of plain numbers need none."""
    if isinstance(module, nn.Linear | Conv1D) and module.weight.is_floating_point():
        return True
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of what is found out here
        x = torch.ones(1, 1, shape_of(module)[1], requires_grad=True)
        y = module(x).sum()
        return y.requires_grad and torch.autograd.grad(y, x, allow_unused=True)[0] is not None
