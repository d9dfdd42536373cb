"""What linear layers have read: the keys of their weights, for rules that need them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Inputs:
    """The inputs of a model's linear layers, kept once the gradient of the output that they made has come back.

    So a reading without a backward pass leaves nothing, and two backward passes before a step add up, as gradients do.
    """

    def __init__(self) -> None:
        self._seen: dict[Tensor, list[Tensor]] = {}

    def record(self, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        """Keep the input of a layer once the gradient of its output arrives; a forward hook."""
        weight, key = layer.get_parameter("weight"), args[0].detach().flatten(0, -2)
        if output.requires_grad and weight.requires_grad:
            output.register_hook(lambda grad: self._seen.setdefault(weight, []).append(key))

    def of(self, weight: Tensor) -> Tensor | None:
        """Return the keys of a weight since the last `forget`, [T, in] over all backward passes, or None."""
        seen = self._seen.get(weight)
        return torch.cat(seen).to(weight.dtype) if seen else None

    def forget(self, weight: Tensor) -> None:
        """Drop the keys of a weight: its gradient was used or zeroed."""
        self._seen.pop(weight, None)


def capture(model: nn.Module) -> Inputs:
    """Record the inputs of every `nn.Linear` of a model from now on, for rules that need keys.

    Args:
        model: its linear layers get a forward hook; a weight used by several layers collects the inputs of all.
    Returns:
        to pass to `FromRule(..., inputs=...)`.
    """
    inputs = Inputs()
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(inputs.record)
    return inputs
