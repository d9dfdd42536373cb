"""What every layer that reads a sequence asks of its input."""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.memory.state import LayerState


def check_input(x: Tensor, dim: int, mask: Tensor | None, state: LayerState | None = None) -> None:
    """Refuse what a layer would silently read as something else.

    Args:
        x: should be [B, T, dim].
        dim: the layer's size.
        mask: should be [B, T] bool with each row's real tokens first, or None.
        state: should hold tensors [B, ...], or be None.
    Raises:
        ValueError: another shape or number of rows, a mask that is not bool, or padding before a real token.
    """
    if x.ndim != 3 or x.shape[-1] != dim:
        raise ValueError(f"input has shape {tuple(x.shape)}, but the layer reads [B, T, {dim}]; build it with that dim")
    for name, tensor in ({**state.memory, **state.context} if state else {}).items():
        if len(tensor) != len(x):
            raise ValueError(
                f"the state's {name!r} has {len(tensor)} rows, the input has {len(x)}; "
                "pass the state of these rows, or None to start"
            )
    if mask is None:
        return
    if mask.dtype != torch.bool or mask.shape != x.shape[:2]:
        raise ValueError(
            f"mask is {mask.dtype} of shape {tuple(mask.shape)}, but must be bool of shape {tuple(x.shape[:2])}; "
            "pass True where a token is real"
        )
    if bool((mask[:, 1:] & ~mask[:, :-1]).any()):
        row = int((mask[:, 1:] & ~mask[:, :-1]).any(1).nonzero()[0])
        raise ValueError(f"mask has padding before a real token in row {row}; move each row's real tokens to the left")
