"""Which mixer a preset has, how its levels are put together, and ready-made configs: a new variant is a row here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from everlearn.layers.attention import Attention
from everlearn.layers.cms import CMS, IndependentCMS
from everlearn.layers.continuum import ContinuumMemory
from everlearn.layers.delta_net import DeltaMemory
from everlearn.layers.nested import NestedCMS
from everlearn.levels import Level
from everlearn.models.config import DecoderConfig

Mixer = Attention | DeltaMemory
MIXERS: dict[str, Callable[[DecoderConfig], Mixer]] = {
    "attention": lambda c: Attention(c.dim, c.num_heads, window=c.window),
    "delta_net": lambda c: DeltaMemory(c.dim, c.num_heads),
}

MEMORIES: dict[str, Callable[[DecoderConfig], ContinuumMemory]] = {
    "sequential": lambda c: CMS(c.dim, c.hidden_dim, c.levels, chunk_size=c.chunk_size),
    "nested": lambda c: NestedCMS(c.dim, c.hidden_dim, c.levels, chunk_size=c.chunk_size),
    "independent": lambda c: IndependentCMS(c.dim, c.hidden_dim, c.levels, chunk_size=c.chunk_size),
}

PRESETS = {
    "transformer++": {"mixer": "attention"},
    "delta_net": {"mixer": "delta_net"},
}


def preset(name: str, *, levels: Sequence[Level] = (), **changes: Any) -> DecoderConfig:
    """Return the config of a published architecture, with a plain MLP or with levels.

    Args:
        name: "transformer++" (RMSNorm, RoPE, SwiGLU) or "delta_net".
        levels: levels of a Continuum Memory System; none means a plain MLP.
        changes: any other field of `DecoderConfig`.
    Raises:
        ValueError: a name that is not in the table.
    """
    if name not in PRESETS:
        raise ValueError(f"preset {name!r} is unknown; choose one of {', '.join(PRESETS)}")
    return DecoderConfig(**{**PRESETS[name], "levels": tuple(levels), **changes})
