"""Sizes that presets share: every preset of one size has the same budget of parameters, so that they compare."""

from __future__ import annotations

from typing import Any

import torch

from everlearn.models.config import DecoderConfig
from everlearn.models.decoder import Decoder
from everlearn.models.presets import preset

# the shapes of the published comparisons from 340M on; below, bytes and what a CPU can train
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"dim": 128, "num_layers": 4, "num_heads": 4, "vocab_size": 256},
    "small": {"dim": 512, "num_layers": 8, "num_heads": 8, "vocab_size": 256},
    "340M": {"dim": 1024, "num_layers": 24, "num_heads": 16, "vocab_size": 32_000},
    "760M": {"dim": 1536, "num_layers": 24, "num_heads": 16, "vocab_size": 32_000},
    "1.3B": {"dim": 2048, "num_layers": 24, "num_heads": 32, "vocab_size": 32_000},
}
PARAMETERS = {"tiny": 1_000_000, "small": 30_000_000, "340M": 340_000_000, "760M": 760_000_000, "1.3B": 1_300_000_000}


def sized(name: str, size: str = "tiny", **changes: Any) -> DecoderConfig:
    """Return the config of a preset at a size.

    What the mixer and the levels leave of the budget goes into the hidden size of the MLPs, so that presets of one size
    have equally many parameters, whatever they spend them on. Another vocabulary changes the embedding alone.

    Args:
        name: a preset; see `preset`.
        size: a key of `SIZES`; the budget is `PARAMETERS` of it.
        changes: any field of `DecoderConfig`, such as levels; a hidden_dim is taken as it is.
    Raises:
        ValueError: an unknown preset or size, or blocks that need more than the budget without any MLP.
    Example:
        >>> config = sized("hope_attention", "340M")
        >>> config.dim, config.hidden_dim, f"{count_parameters(config):,}"
        (1024, 928, '338,740,224')
    """
    if size not in SIZES:
        raise ValueError(f"size {size!r} is unknown; choose one of {', '.join(SIZES)}")
    shape = {**SIZES[size], **changes}
    if "hidden_dim" in changes:
        return preset(name, **shape)
    step = max(8, shape["dim"] // 32)
    budgeted = {**shape, "vocab_size": SIZES[size]["vocab_size"]}
    one, two = (count_parameters(preset(name, **budgeted, hidden_dim=step * n)) for n in (1, 2))
    hidden_dim = round((PARAMETERS[size] - one) / (two - one) + 1) * step
    if hidden_dim < step:
        raise ValueError(
            f"{name!r} with dim {shape['dim']} and {shape['num_layers']} layers has {one:,} parameters with the "
            f"smallest MLPs, above the {PARAMETERS[size]:,} of size {size!r}; choose a larger size, or give hidden_dim"
        )
    return preset(name, **shape, hidden_dim=hidden_dim)


def count_parameters(config: DecoderConfig) -> int:
    """Return how many parameters a decoder of this config has; nothing is allocated."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Decoder(config).parameters())
