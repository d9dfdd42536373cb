"""Low-rank adapters (LoRA, Hu et al. 2021), as a baseline: frozen linear maps with a learned low-rank term."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class LowRankLinear(nn.Module):
    """A frozen linear map plus a low-rank one that starts at zero.

        y = W x + b + (scale / r) B A x,   A random, B = 0

    Args:
        base: the frozen map, kept as it is.
        rank: r, rows of A.
        scale: LoRA's alpha.
    """

    def __init__(self, base: nn.Linear, rank: int = 8, scale: float = 16.0) -> None:
        super().__init__()
        self.base, self.factor = base, scale / rank
        self.down = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.up = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Return y, [..., out], for x, [..., in]."""
        return self.base(x) + self.factor * ((x @ self.down.mT) @ self.up.mT)


def add_low_rank(model: nn.Module, rank: int = 8, seed: int = 0) -> list[nn.Parameter]:
    """Put adapters on every linear map except the one to the vocabulary, in place.

    Args:
        model: a Hugging Face causal language model; its outputs are unchanged, since B is zero.
        rank: of every adapter.
        seed: of A.
    Returns:
        the adapters' parameters.
    Raises:
        ValueError: the model has no such linear map.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear) and child is not head
    ]
    if not found:
        raise ValueError(f"{type(model).__name__} has no torch.nn.Linear besides its output; choose another baseline")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for parent, name, child in found:
            setattr(parent, name, LowRankLinear(child, rank))
    return [p for module in model.modules() if isinstance(module, LowRankLinear) for p in (module.down, module.up)]
