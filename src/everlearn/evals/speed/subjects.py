"""Who is measured: every preset at the same width, depth and number of parameters as a plain Transformer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from everlearn.models import Decoder, preset

BASELINE = "transformer++"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What every subject has in common.

    Args:
        dim: size of the residual stream.
        num_layers: blocks.
        num_heads: heads of the mixer.
        hidden_dim: of the MLP. A preset with levels divides it among their MLPs, so that all have as many parameters.
        length: tokens per row of a training step.
        rows: rows of a training step.
        contexts: tokens that stand before the first token that is decoded.
    """

    dim: int = 256
    num_layers: int = 4
    num_heads: int = 4
    hidden_dim: int = 768
    length: int = 1024
    rows: int = 1
    contexts: tuple[int, ...] = (1024, 8192)


QUICK = Sizes(dim=64, num_layers=2, num_heads=2, hidden_dim=192, length=256, contexts=(128, 512))


def subject(name: str, sizes: Sizes, device: torch.device | str = "cpu") -> Decoder:
    """Return a model of a preset with random weights, the same ones in every call.

    Raises:
        ValueError: a preset that is not there, or levels among which `hidden_dim` does not divide.
    """
    mlps = sum(level.mean_of is None for level in preset(name).levels) or 1
    if sizes.hidden_dim % mlps:
        raise ValueError(
            f"hidden_dim {sizes.hidden_dim} does not divide among the {mlps} levels of {name!r}; choose a multiple"
        )
    torch.manual_seed(0)
    config = preset(
        name,
        dim=sizes.dim,
        num_layers=sizes.num_layers,
        num_heads=sizes.num_heads,
        hidden_dim=sizes.hidden_dim // mlps,
    )
    return Decoder(config).to(device)


def tokens(rows: int, length: int, device: torch.device | str = "cpu") -> Tensor:
    """Return random bytes, [rows, length], the same ones in every call."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (rows, length), generator=generator).to(device)
