"""What a stream has taught reaches a pretrained matrix for the length of one call, and is never stored on a module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

# tokens of a row from which W0 + D is worth its making: for fewer, the second product costs less than the sum
MERGE_FROM = 16


@dataclass(frozen=True)
class Reading:
    """What the matrices of one stacked model read while a context is open.

    Args:
        factors: matrix name -> matrices [B, out, in] whose product, the last applied first, is added to W0.
        alone: names of the matrices whose own W0 is left out.
        copies: what the further copies of an MLP read, for forms that hold several.
        merged: read (W0 + D) x instead of W0 x + D x where a row has MERGE_FROM tokens: True always, False never, None
            where it is as exact; see `StackedLinear`.
    """

    factors: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)
    alone: frozenset[str] = frozenset()
    copies: tuple[Reading, ...] = ()
    merged: bool | None = False


class Owner:
    """Tells one stacked model's readings from another's."""


# a context variable: threads, tasks and nested models each see their own, and a new thread sees none
_READINGS: ContextVar[Mapping[Owner, Reading]] = ContextVar("everlearn_readings")


def current(owner: Owner) -> Reading | None:
    """Return what a model reads in this context, or None outside of any."""
    return _READINGS.get({}).get(owner)


@contextmanager
def active(owner: Owner, reading: Reading) -> Iterator[None]:
    """Let a model's matrices read something inside this context, and what they read before after it."""
    token = _READINGS.set({**_READINGS.get({}), owner: reading})
    try:
        yield
    finally:
        _READINGS.reset(token)


class StackedLinear(nn.Module):
    """A pretrained matrix that adds what the current context holds for its name: y = W0 x + b + D x.

    W0 may be of any dtype, or quantised: only its output is touched. D x is computed in D's dtype and cast once. One
    product (W0 + D) x is cheaper by half, forward and back; without being told so (`merged=None`) it is taken for one
    row alone, whose product has the kernel and the shape of W0 x, so that D = 0 changes no bit, and where W0 is plain
    numbers of D's own dtype, so that no step of D is rounded away. Saved checkpoints of the model keep the names that
    they had before.

    Args:
        base: a Linear, quantised or not, or a Conv1D.
        name: under which a `Reading` holds its factors.
        owner: whose readings count.
    """

    def __init__(self, base: nn.Module, name: str, owner: Owner) -> None:
        super().__init__()
        self.base, self.name, self.owner = base, name, owner
        self.register_state_dict_post_hook(_without_base)
        self.register_load_state_dict_pre_hook(_with_base)

    def forward(self, x: Tensor) -> Tensor:
        """Map x, [..., in], to [..., out]."""
        reading = current(self.owner)
        factors = reading.factors.get(self.name) if reading else None
        if reading is None or factors is None:
            return self.base(x)
        if self._merges(reading, factors, x):
            return merged(self.base, x, total(factors), self.name)
        added = per_row(x, factors, self.name)
        if self.name in reading.alone:
            return added.to(x.dtype)
        y = self.base(x)
        return y + added.to(y.dtype)

    def _merges(self, reading: Reading, factors: tuple[Tensor, ...], x: Tensor) -> bool:
        """Tell whether this input is read with W0 + D."""
        rows = len(factors[0])
        if reading.merged is False or x.numel() < MERGE_FROM * rows * x.shape[-1]:
            return False
        return reading.merged or (
            rows == 1
            and len(factors) == 1
            and can_merge(self.base)
            and self.base.weight.dtype == factors[0].dtype
            and not torch.is_autocast_enabled(x.device.type)
        )


def per_row(x: Tensor, factors: tuple[Tensor, ...], name: str) -> Tensor:
    """Multiply each row's tokens by that row's matrices.

    Args:
        x: [n * B, ..., in]; generation repeats each row n times, one after the other.
        factors: each [B, out, in], the last applied first.
        name: of the matrix, for an error.
    Returns:
        [n * B, ..., out] in the dtype of the factors.
    Raises:
        ValueError: the input's rows are no multiple of the state's.
    """
    rows = len(factors[0])
    if x.ndim < 3 and rows > 1:
        raise ValueError(
            f"{name} gets an input of shape {tuple(x.shape)}, which no longer tells rows apart, but the state has "
            f"{rows} rows; read such a model with one row at a time"
        )
    if len(x) % rows and rows > 1:
        raise ValueError(
            f"{name} gets {len(x)} rows, the state in use has {rows}; give as many rows, or a multiple (generation "
            "that repeats each row), or pick rows with state.rows(...)"
        )
    y = x.to(factors[0].dtype).reshape(rows, -1, x.shape[-1])
    for factor in reversed(factors):
        y = y @ factor.transpose(-1, -2)
    return y.reshape(*x.shape[:-1], y.shape[-1])


def total(factors: tuple[Tensor, ...]) -> Tensor:
    """Return the product of the factors, [B, out, in]."""
    product = factors[0]
    for factor in factors[1:]:
        product = product @ factor
    return product


def merged(base: nn.Module, x: Tensor, delta: Tensor, name: str) -> Tensor:
    """Compute (W0 + D) x + b, for one row with the kernel that the pretrained matrix uses; delta is [B, out, in]."""
    weight = merged_weight(base, delta.squeeze(0) if len(delta) == 1 else delta, name)
    assert isinstance(base, nn.Linear | Conv1D)
    if len(delta) > 1:
        y = per_row(x, (weight.mT if isinstance(base, Conv1D) else weight,), name)
        return y if base.bias is None else y + base.bias
    if isinstance(base, Conv1D):
        return torch.addmm(base.bias, x.reshape(-1, x.shape[-1]), weight).reshape(*x.shape[:-1], -1)
    return F.linear(x, weight, base.bias)


def merged_weight(base: nn.Module, delta: Tensor, name: str) -> Tensor:
    """Return W0 + D as the module stores W0; delta is [out, in], or [B, out, in] for as many weights.

    Raises:
        ValueError: the matrix is quantised, so that it holds no plain numbers to add to.
    """
    weight = base.weight if isinstance(base, nn.Linear | Conv1D) else None
    if weight is None or not weight.is_floating_point():
        kind = type(base).__name__ if weight is None else f"{type(base).__name__} of {weight.dtype}"
        raise ValueError(
            f"matrix {name!r} is a {kind}: nothing can be merged into a quantised weight; merge into the model as it "
            "was before it was quantised, or keep the deltas beside it with save_adapter(folder, state)"
        )
    # added in the wider of the two types, so that rounding happens once
    return (weight + (delta.mT if isinstance(base, Conv1D) else delta)).to(weight.dtype)


def can_merge(base: nn.Module) -> bool:
    """Tell whether a matrix is held as one plain tensor that a delta can be added to, and is all that its call does.

    Hooks, and a `forward` of the module's own as accelerate sets it where weights are offloaded, run in a call alone.
    """
    plain = type(base) is nn.Linear or type(base) is Conv1D
    hooked = base._forward_hooks or base._forward_pre_hooks or base._backward_hooks or base._backward_pre_hooks
    return plain and not hooked and "forward" not in vars(base)


def _without_base(module: nn.Module, state_dict: dict[str, Any], prefix: str, _metadata: dict[str, Any]) -> None:
    """Save the matrix under the names that it had before it was wrapped."""
    for name in [n for n in state_dict if n.startswith(f"{prefix}base.")]:
        state_dict[prefix + name.removeprefix(f"{prefix}base.")] = state_dict.pop(name)


def _with_base(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Load the matrix from the names that it had before it was wrapped."""
    for name in [n for n in state_dict if n.startswith(prefix)]:
        state_dict[f"{prefix}base.{name.removeprefix(prefix)}"] = state_dict.pop(name)
