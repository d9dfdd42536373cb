"""The feed-forward layer, with weights shared by all rows or owned by each."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from everlearn.layers.affine import affine
from everlearn.levels.component import Component


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply by a matrix that all rows share, [out, in], or that each row owns, [B, out, in]; x is [B, T, in]."""
    if weight.ndim == 2:
        return F.linear(x, weight)
    # one row alone: the plain product, whose gradient has the layout of the weight
    return F.linear(x, weight[0]) if len(weight) == 1 else x @ weight.mT


def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Compute down (silu(gate x) * up x).

    Args:
        x: [B, T, dim].
        gate: [hidden, dim], or [B, hidden, dim] when each row owns its weights.
        up: like `gate`.
        down: [dim, hidden] or [B, dim, hidden].
    Returns:
        [B, T, dim].
    """
    return linear(F.silu(linear(x, gate)) * linear(x, up), down)


class SwiGLU(nn.Module):
    """A gated MLP without biases: down (silu(gate x) * up x).

    Args:
        dim: size of the input and of the output.
        hidden_dim: size between them.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, hidden_dim, bias=False)
        self.up = nn.Linear(dim, hidden_dim, bias=False)
        self.down = nn.Linear(hidden_dim, dim, bias=False)

    def weights(self) -> dict[str, Tensor]:
        """Return the three matrices as `swiglu` takes them."""
        return {"gate": affine(self.gate)[0], "up": affine(self.up)[0], "down": affine(self.down)[0]}

    def forward(self, x: Tensor) -> Tensor:
        """Map x, [B, T, dim], to [B, T, dim]."""
        # `swiglu` through the layers themselves: what they read is seen by who captures inputs
        return self.down(F.silu(self.gate(x)) * self.up(x))

    def components(self) -> list[Component]:
        """Return its three matrices as one component."""
        return [Component(name="", kind="MLP", owns=("gate", "up", "down"))]
