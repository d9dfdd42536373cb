"""The short causal convolution before a memory: it lets a key stand for the token before its value."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def convolve(inputs: Tensor, weight: Tensor, before: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mix each channel over its last tokens and apply SiLU.

    Args:
        inputs: [B, T, C].
        weight: [width, C]; the last row is that of the current token.
        before: what the row's last tokens were, [B, width - 1, C]; None is zeros.
        mask: [B, T] bool, each row's real tokens first; None means that all are real.
    Returns:
        mixed: [B, T, C].
        tail: each row's last width - 1 real inputs, [B, width - 1, C]: the next call's `before`.
    """
    length, reach = inputs.shape[1], len(weight) - 1
    if before is None:
        before = inputs.new_zeros(inputs.shape[0], reach, inputs.shape[2])
    inputs = torch.cat([before.to(inputs.dtype), inputs], 1)
    mixed = inputs[:, :length] * weight[0]
    for lag in range(1, reach + 1):
        mixed = torch.addcmul(mixed, inputs[:, lag : lag + length], weight[lag])
    if mask is None:
        return F.silu(mixed), inputs[:, length:]
    # a row's tail ends at its own last real token
    index = mask.sum(1)[:, None, None] + torch.arange(reach, device=inputs.device)[:, None]
    return F.silu(mixed), inputs.take_along_dim(index, 1)
