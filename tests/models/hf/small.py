"""Models of every preset, small enough to run in a moment."""

from __future__ import annotations

import torch

from everlearn.levels import Level
from everlearn.models import HopeConfig, HopeForCausalLM

LEVELS = [Level("fast", 4, 0.3, reset="document"), Level("slow", 8, 0.3)]
SIZES = {"dim": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 12, "chunk_size": 4, "levels": LEVELS}


def make(name: str = "delta_net", dtype: torch.dtype = torch.float32, **changes) -> HopeForCausalLM:
    """Return a model whose parameters are the same in every call, with levels whatever the preset."""
    torch.manual_seed(1)
    return HopeForCausalLM(HopeConfig.from_preset(name, **{**SIZES, **changes})).to(dtype).eval()


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(seed))


def same(a: torch.Tensor, b: torch.Tensor, atol: float = 1e-5) -> None:
    """Compare in float32: another order of sums, 1e-5; give 1e-10 for float64."""
    torch.testing.assert_close(a, b, atol=atol, rtol=atol)
