"""Tokens in blocks, and how much of what stood at one token of a block is left at a later one."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def decay(log_gate: Tensor) -> Tensor:
    """Return prod gate_j over i < j <= t for all 0 <= i <= t <= C, zero above the diagonal.

    The exponents are sums of the gates between i and t. Differences of one running sum would lose them in float32
    once a gate has closed (measured: error 1e-3 instead of 1e-6 after a logarithm of -5,000).

    Args:
        log_gate: logarithms of the gates, [N, C, 1], <= 0 and finite.
    Returns:
        [N, C + 1, C + 1], row t, column i; in [0, 1].
    Example:
        >>> import torch
        >>> decay(torch.tensor([0.5, 0.2]).log().reshape(1, 2, 1))[0]
        tensor([[1.0000, 0.0000, 0.0000],
                [0.5000, 1.0000, 0.0000],
                [0.1000, 0.2000, 1.0000]])
    """
    size = log_gate.shape[1]
    ones = log_gate.new_ones(size + 1, size + 1)
    return (ones.tril(-1)[:, :size] @ (log_gate * ones.tril()[:size])).exp().tril()


def to_blocks(x: Tensor, size: int) -> Tensor:
    """Cut [B, T, H, ...] into [B*H*N, C, ...], with zeros after the end; the last dimension is 1 for scalars."""
    x = x if x.ndim == 4 else x.unsqueeze(-1)
    x = F.pad(x, (0, 0, 0, 0, 0, -x.shape[1] % size))
    return x.unflatten(1, (-1, size)).permute(0, 3, 1, 2, 4).reshape(-1, size, x.shape[-1])


def from_blocks(x: Tensor, rows: int, heads: int) -> Tensor:
    """Put [B*H*N, C, D] back in order, [B, N*C, H, D]."""
    return x.reshape(rows, heads, -1, x.shape[-1]).transpose(1, 2)
