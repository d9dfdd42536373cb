"""Exact least squares, one record at a time: the optimizer that learns the precision of its keys.  [ours]"""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.rules.keys import key_block
from everlearn.rules.shapes import wide
from everlearn.rules.types import Slots


def start_precision(dim: int, ridge: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return the precision before any record, I / ridge, [dim, dim].

    Args:
        dim: length of a key.
        ridge: the prior scatter, in units of a squared key; > 0. Small values trust the first records more.
        dtype: float64 unless there is a reason: in float32 rounding errors grow with every update.
    Raises:
        ValueError: ridge is not above zero.
    """
    if not ridge > 0:
        raise ValueError(f"ridge {ridge} is not above zero, so no precision exists before the first record; try 1.0")
    return torch.eye(dim, dtype=dtype) / ridge


def least_squares(
    weights: Tensor,
    grad: Tensor,
    key: Tensor | None,
    slots: Slots,
    *,
    eta: float | Tensor = 1.0,
    weight: float | Tensor = 1.0,
    ridge: float = 1.0,
) -> tuple[Tensor, Slots]:
    """Take the exact least-squares step: learn the precision of the keys, then step by it.  [ours]

        P <- P - w (P k)(P k)^T / (1 + w k^T P k)
        W <- W - eta G P

    With eta 1, weights that start at zero and P = I / ridge, W equals the ridge regression on all records so far, in
    any order. It is the omega rule taken to its Newton limit over all of the past, known as recursive least squares;
    with class means for values it is streaming LDA (Hayes & Kanan), on random features RanPAC and KLDA. Unlike `gd`
    it forgets along no key direction: P shrinks where it has looked.

    Args:
        weights: [..., N, D].
        grad: gradient at `weights` of sum_t w_t/2 |W k_t - v_t|^2, so sum_t w_t (W k_t - v_t) k_t^T, [..., N, D].
        key: the layer's inputs, [..., T, D], or one of them for each matrix, [..., D].
        slots: {} before the first step, then {"precision": P, [..., D, D]}, which is float32 for weights in half
            precision; a P of zeros has not started either.
        eta: share of the exact step, 1 takes all of it.
        weight: w, [..., T] or a number, >= 0.
        ridge: the prior scatter that the first step starts from, in units of a squared key.
    Returns:
        weights: [..., N, D].
        slots: the new precision; the argument is left untouched.
    Raises:
        ValueError: no key, keys that do not fit the weights, or ridge is not above zero.
    Example:
        >>> W, k, v = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[3.0, 4.0]]).double(), 5.0
        >>> W, slots = least_squares(W, (W @ k.T - v) @ k, k, {}, ridge=1e-6)
        >>> round((W @ k.T).item(), 3)
        5.0
    """
    keys = key_block("least_squares", key, weights)
    old = start_precision(keys.shape[-1], ridge, wide(weights).dtype).to(weights.device)
    if slots:
        begun = slots["precision"].diagonal(dim1=-2, dim2=-1).sum(-1) > 0
        old = torch.where(begun[..., None, None], slots["precision"], old)
    precision = add_records(old, keys, weight)
    moved = weights - eta * (grad.to(precision.dtype) @ precision)
    return moved.to(weights.dtype), {"precision": precision}


def add_records(precision: Tensor, key: Tensor, weight: float | Tensor = 1.0) -> Tensor:
    """Add w k k^T of every key to the matrix whose inverse is `precision`.  [ours]

        P - P K^T (I + K P K^T)^-1 K P,   K = sqrt(w) k

    One key is the rank-one update, a block is Woodbury's: the same numbers, one solve of size T.

    Args:
        precision: P, [..., D, D].
        key: [..., T, D], or one key [D].
        weight: [..., T] or a number, >= 0.
    Returns:
        [..., D, D], symmetric.
    """
    scaled = _scaled(precision, key, weight)
    read = scaled @ precision
    inner = torch.eye(scaled.shape[-2], dtype=precision.dtype, device=precision.device) + read @ scaled.mT
    return _symmetric(precision - read.mT @ torch.linalg.solve(inner, read))


def remove_records(precision: Tensor, key: Tensor, weight: float | Tensor = 1.0) -> Tensor:
    """Undo `add_records` for keys that are given again, in any order.  [ours]

        P + P K^T (I - K P K^T)^-1 K P,   K = sqrt(w) k

    Args:
        precision: P, [..., D, D].
        key: [..., T, D], or one key [D].
        weight: as it was when the key was added.
    Returns:
        [..., D, D], symmetric.
    Raises:
        ValueError: what is left would not be a scatter matrix, so these keys were not all added.
    """
    scaled = _scaled(precision, key, weight)
    read = scaled @ precision
    inner = torch.eye(scaled.shape[-2], dtype=precision.dtype, device=precision.device) - read @ scaled.mT
    factor, failed = torch.linalg.cholesky_ex(_symmetric(inner))
    if failed.any():
        raise ValueError(
            f"{scaled.shape[-2]} records cannot be removed: nothing like them was added with this weight; "
            "give back exactly the keys and weights that were added"
        )
    return _symmetric(precision + read.mT @ torch.cholesky_solve(read, factor))


def _scaled(precision: Tensor, key: Tensor, weight: float | Tensor) -> Tensor:
    """Return the keys times sqrt(weight), [..., T, D], in the precision's dtype."""
    block = key.unsqueeze(0) if key.ndim == 1 else key
    root = torch.as_tensor(weight, dtype=precision.dtype, device=precision.device).sqrt()
    return block.to(precision.dtype) * root.expand(block.shape[:-1]).unsqueeze(-1)


def _symmetric(matrix: Tensor) -> Tensor:
    """Remove the antisymmetric part that rounding leaves."""
    return (matrix + matrix.mT) / 2
