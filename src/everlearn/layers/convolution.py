"""A short causal convolution whose last inputs are carried from call to call."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from everlearn.levels.component import TOKENS, Component


def convolve(inputs: Tensor, kernel: Tensor, tail: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mix each channel over the last tokens and apply SiLU.

        y_t = silu(sum_j kernel[j] x_{t - width + 1 + j})

    Args:
        inputs: [B, T, C].
        kernel: [width, C]; the last row weighs the current token.
        tail: [B, width - 1, C], the inputs before these; None is zero.
        mask: [B, T] bool, True for a real token, real tokens first; None means all are.
    Returns:
        y: [B, T, C].
        tail: each row's last real inputs, [B, width - 1, C].
    """
    length, reach = inputs.shape[1], len(kernel) - 1
    before = inputs.new_zeros(inputs.shape[0], reach, inputs.shape[2]) if tail is None else tail
    inputs = torch.cat([before.to(inputs.dtype), inputs], 1)
    mixed = inputs[:, :length] * kernel[0]
    for lag in range(1, len(kernel)):
        mixed = torch.addcmul(mixed, inputs[:, lag : lag + length], kernel[lag])
    if mask is None:
        return F.silu(mixed), inputs[:, length:]
    # a row's tail ends at its own last real token
    index = mask.sum(1)[:, None, None] + torch.arange(reach, device=inputs.device)[:, None]
    return F.silu(mixed), inputs.take_along_dim(index, 1)


def window_component(kernel: Tensor) -> Component:
    """Return the inputs that a convolution with this kernel, [width, C], carries, as `describe` shows them."""
    reach = len(kernel) - 1
    return Component(
        name="conv",
        kind="convolution window",
        update_period=1,
        unit=TOKENS,
        state_bytes=reach * kernel.shape[1] * kernel.element_size(),
        rule=f"keep the last {reach} tokens",
        context_flow="tokens of the row",
        conditioned_on=("qkv",),
    )
