"""Which mixer a preset has, how its levels are put together, and ready-made configs: a new variant is a row here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from everlearn.layers.attention import Attention
from everlearn.layers.cms import CMS, IndependentCMS
from everlearn.layers.continuum import ContinuumMemory
from everlearn.layers.delta_net import DeltaMemory
from everlearn.layers.nested import NestedCMS
from everlearn.layers.self_modifying import SelfModifyingRule, SelfModifyingTitans
from everlearn.layers.titans import TitansMemory
from everlearn.layers.titans_attention import MemoryAsContext, MemoryAsGate, MemoryAsLayer
from everlearn.levels import Level
from everlearn.models.config import ATTENTION, DecoderConfig


def _memory_as_context(config: DecoderConfig) -> MemoryAsContext:
    """Build the mixer whose attention needs a segment of some length."""
    if config.window is None:
        raise ValueError("window is None, but the attention of titans_mac stays within a segment; give one, such as 64")
    return MemoryAsContext(config.dim, config.num_heads, segment_size=config.window)


Mixer = Attention | DeltaMemory | TitansMemory | MemoryAsContext | MemoryAsGate | MemoryAsLayer | SelfModifyingTitans
MIXERS: dict[str, Callable[[DecoderConfig], Mixer]] = {
    ATTENTION: lambda c: Attention(c.dim, c.num_heads, window=c.window),
    "delta_net": lambda c: DeltaMemory(c.dim, c.num_heads),
    "gated_delta_net": lambda c: DeltaMemory(c.dim, c.num_heads, gated=True),
    "self_modifying": lambda c: SelfModifyingTitans(
        c.dim, c.num_heads, rule=SelfModifyingRule(chunk_size=c.mixer_chunk_size)
    ),
    "titans_lmm": lambda c: TitansMemory(c.dim, c.num_heads),
    "titans_mac": _memory_as_context,
    "titans_mag": lambda c: MemoryAsGate(c.dim, c.num_heads, window=c.window),
    "titans_mal": lambda c: MemoryAsLayer(c.dim, c.num_heads, window=c.window),
}

MEMORIES: dict[str, Callable[[DecoderConfig], ContinuumMemory]] = {
    "sequential": lambda c: CMS(c.dim, c.hidden_dim, c.levels, chunk_size=c.chunk_size),
    "nested": lambda c: NestedCMS(c.dim, c.hidden_dim, c.levels, chunk_size=c.chunk_size),
    "independent": lambda c: IndependentCMS(c.dim, c.hidden_dim, c.levels, chunk_size=c.chunk_size),
}

# fast forgets at the end of each document; mid and slow persist, and move a fourth and a sixteenth as often
HOPE_LEVELS = (Level("fast", 64, reset="document"), Level("mid", 256), Level("slow", 1024))

PRESETS: dict[str, dict[str, Any]] = {
    "transformer++": {"mixer": "attention"},
    "delta_net": {"mixer": "delta_net"},
    "gated_delta_net": {"mixer": "gated_delta_net"},
    "titans_lmm": {"mixer": "titans_lmm"},
    "titans_mac": {"mixer": "titans_mac", "window": 64},
    "titans_mag": {"mixer": "titans_mag", "window": 64},
    "titans_mal": {"mixer": "titans_mal", "window": 64},
    "hope_attention": {"mixer": "attention", "levels": HOPE_LEVELS},
    "hope": {"mixer": "self_modifying", "levels": HOPE_LEVELS},
}


def preset(name: str, *, levels: Sequence[Level] | None = None, **changes: Any) -> DecoderConfig:
    """Return the config of a published architecture, with a plain MLP or with levels.  [NL eq. 94-97]

    Args:
        name: "transformer++" (RMSNorm, RoPE, SwiGLU), "delta_net" or "gated_delta_net", with a plain MLP unless levels
            are given; "titans_lmm", Titans' memory alone, and "titans_mac", "titans_mag" and "titans_mal", that memory
            as the context of, the gate of and the layer before an attention that sees `window` tokens;
            "hope_attention", which is transformer++ with a Continuum Memory System for its MLP; "hope", which has
            self-modifying Titans in the place of attention as well.
        levels: levels of a Continuum Memory System; () means a plain MLP, None what the preset has.
        changes: any other field of `DecoderConfig`.
    Raises:
        ValueError: a name that is not in the table.
    """
    if name not in PRESETS:
        raise ValueError(f"preset {name!r} is unknown; choose one of {', '.join(PRESETS)}")
    own = {} if levels is None else {"levels": tuple(levels)}
    return DecoderConfig(**{**PRESETS[name], **own, **changes})
