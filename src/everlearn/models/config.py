"""What defines a decoder, as plain data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from everlearn.levels import Level, check_levels


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
    Raises:
        ValueError: sizes that do not fit each other, or another `cms` than a chain without a level to put in it.
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

    def __post_init__(self) -> None:
        sizes = {name: value for name, value in vars(self).items() if name not in ("mixer", "levels", "window", "cms")}
        for name, value in {**sizes, "window": 1 if self.window is None else self.window}.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 2:
            raise ValueError(
                f"dim {self.dim} does not split into {self.num_heads} heads of even size; "
                f"choose dim={self.num_heads * 2 * max(1, round(self.dim / self.num_heads / 2))}"
            )
        if self.levels:
            check_levels(self.levels, self.chunk_size)
        elif self.cms != "sequential":
            raise ValueError(
                f"cms is {self.cms!r}, but the model has no level to put together; give levels, or leave it"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data; endless periods become the word "never", and later fields stand only if changed."""
        data = {**dataclasses.asdict(self), "levels": [level.to_dict() for level in self.levels]}
        # a model's fingerprint is taken over this, and these values are what it was before there was a choice
        for name, before in (("cms", "sequential"), ("mixer_chunk_size", 16)):
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
