"""What defines a decoder, as plain data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from everlearn.levels import Level, check_levels

ATTENTION = "attention"


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Shape and levels of one decoder; every field that changes results is here.

    Args:
        mixer: which token mixer each block has, a key of `models.presets.MIXERS`.
        vocab_size: number of tokens; 256 for bytes.
        dim: size of the residual stream.
        num_layers: number of blocks.
        num_heads: heads of the mixer; divides dim.
        hidden_dim: hidden size of the MLP, or of each level's MLP.
        levels: levels of the Continuum Memory System in order of application; empty for a plain MLP.
        chunk_size: tokens that share one gradient anchor while the model learns; divides every update_period.
        window: tokens that attention looks back, or None for all; of "titans_mac", whose attention stays within a
            segment, the length of one. Mixers without attention ignore it.
        cms: how the levels are put together, a key of `models.presets.MEMORIES`: "sequential" (a chain), "nested" (one
            MLP, whose start the slower levels learn) or "independent" (a weighted sum).
        mixer_chunk_size: tokens of which self-modifying memories generate keys, values and gates with the same state;
            the other mixers ignore it.
        attention_blocks: how many of the blocks have attention instead of `mixer`, 0 to num_layers. They are spread
            evenly, each the last of its share: 2 of 8 are the fourth and the eighth.
    Raises:
        ValueError: sizes that do not fit each other, another `cms` than a chain without a level to put in it, or
            attention_blocks where every block has attention already.
    """

    mixer: str = "delta_net"
    vocab_size: int = 256
    dim: int = 64
    num_layers: int = 2
    num_heads: int = 2
    hidden_dim: int = 128
    levels: tuple[Level, ...] = ()
    chunk_size: int = 64
    window: int | None = None
    cms: str = "sequential"
    mixer_chunk_size: int = 16
    attention_blocks: int = 0

    def __post_init__(self) -> None:
        others = ("mixer", "levels", "window", "cms", "attention_blocks")
        sizes = {name: value for name, value in vars(self).items() if name not in others}
        for name, value in {**sizes, "window": 1 if self.window is None else self.window}.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 2:
            raise ValueError(
                f"dim {self.dim} does not split into {self.num_heads} heads of even size; "
                f"choose dim={self.num_heads * 2 * max(1, round(self.dim / self.num_heads / 2))}"
            )
        count = self.attention_blocks
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= self.num_layers:
            raise ValueError(
                f"attention_blocks is {count!r}; it must be a whole number from 0 to num_layers, {self.num_layers}"
            )
        if count and self.mixer == ATTENTION:
            raise ValueError(
                f"attention_blocks is {count}, but mixer {ATTENTION!r} gives attention to every block; leave it out, "
                "or choose another mixer"
            )
        if self.levels:
            check_levels(self.levels, self.chunk_size)
        elif self.cms != "sequential":
            raise ValueError(
                f"cms is {self.cms!r}, but the model has no level to put together; give levels, or leave it"
            )

    def mixers(self) -> tuple[str, ...]:
        """Return the mixer of each block.

        Example:
            >>> DecoderConfig(num_layers=4, attention_blocks=2).mixers()
            ('delta_net', 'attention', 'delta_net', 'attention')
        """
        count, blocks = self.attention_blocks, self.num_layers
        # a block has attention where the share of blocks so far reaches another whole number
        whole = [n * count // blocks for n in range(blocks + 1)]
        return tuple(ATTENTION if after > before else self.mixer for before, after in pairwise(whole))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data; endless periods become the word "never", and later fields stand only if changed."""
        data = {**dataclasses.asdict(self), "levels": [level.to_dict() for level in self.levels]}
        # a model's fingerprint is taken over this, and these values are what it was before there was a choice
        for name, before in (("cms", "sequential"), ("mixer_chunk_size", 16), ("attention_blocks", 0)):
            if data[name] == before:
                del data[name]
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> DecoderConfig:
        """Rebuild a config from `to_dict`.

        Raises:
            ValueError: a field that does not exist, or a value that does not fit.
        """
        if not isinstance(data, dict):
            raise ValueError(f"the model's config is a {type(data).__name__}; it must be an object with named fields")
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(data) - known):
            raise ValueError(
                f"unknown field {unknown[0]!r} in the model's config; known fields: {', '.join(sorted(known))}"
            )
        return cls(**{**data, "levels": tuple(Level.from_dict(item) for item in data.get("levels", ()))})
