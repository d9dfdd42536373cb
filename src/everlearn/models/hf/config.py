"""The config of a decoder as Hugging Face keeps it: every field of `DecoderConfig`, by the same names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from everlearn.levels import Level
from everlearn.models.config import DecoderConfig
from everlearn.models.sizes import sized

FIELDS = tuple(field.name for field in dataclasses.fields(DecoderConfig))


class HopeConfig(PreTrainedConfig):
    """What defines a decoder, written to config.json and read from it.

    Args:
        fields: any field of `DecoderConfig`; `levels` as `Level` objects or as what `Level.to_dict` gives. The names of
            other Hugging Face models (hidden_size, num_hidden_layers, ...) mean the same fields.
        options: what every Hugging Face config takes, such as eos_token_id. The embedding is the head as well, so
            tie_word_embeddings can only be True.
    Raises:
        ValueError: fields that do not fit each other, or an untied head.
    Example:
        >>> config = HopeConfig.from_preset("hope_attention", "tiny", vocab_size=300)
        >>> config.mixer, config.dim, config.hidden_size, config.vocab_size
        ('attention', 128, 128, 300)
    """

    model_type: ClassVar[str] = "hope"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "dim",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "intermediate_size": "hidden_dim",
    }

    def __init__(self, **fields_and_options: Any) -> None:
        given = {self.attribute_map.get(name, name): value for name, value in fields_and_options.items()}
        fields = {name: given.pop(name) for name in FIELDS if name in given}
        if not given.setdefault("tie_word_embeddings", True):
            raise ValueError(
                "tie_word_embeddings is False, but the embedding of this model is its head too; leave it out, or True"
            )
        self.use_cache = given.pop("use_cache", True)
        # which source defines an exported model; TRL asks every model of a path, so it is empty rather than missing
        self.auto_map: dict[str, str] = given.pop("auto_map", None) or {}
        config = _decoder_config(fields)
        plain = {**vars(config), **config.to_dict()}  # the second leaves out what says nothing new
        vars(self).update({name: plain[name] for name in FIELDS})
        super().__init__(**{"bos_token_id": None, "eos_token_id": None, "pad_token_id": None, **given})

    @classmethod
    def from_preset(cls, name: str, size: str = "tiny", **changes: Any) -> HopeConfig:
        """Return the config of a preset at a size; see `models.sized`.

        Args:
            name: a key of `models.PRESETS`.
            size: a key of `models.SIZES`.
            changes: any field of `DecoderConfig`, and options of Hugging Face.
        Raises:
            ValueError: an unknown preset or size, or fields that do not fit.
        """
        changes = {cls.attribute_map.get(name, name): value for name, value in changes.items()}
        own = {name: changes.pop(name) for name in FIELDS if name in changes}
        return cls.of(sized(name, size, **own), **changes)

    @classmethod
    def of(cls, config: DecoderConfig, **options: Any) -> HopeConfig:
        """Return the Hugging Face form of a decoder's config."""
        return cls(**config.to_dict(), **options)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data; an `auto_map` stands only where there is a source to name."""
        data = super().to_dict()
        return {name: value for name, value in data.items() if value or name != "auto_map"}

    def decoder_config(self) -> DecoderConfig:
        """Return what `Decoder` takes, checked again: a config may have been changed since it was made.

        Raises:
            ValueError: fields that do not fit each other.
        """
        return _decoder_config({name: value for name, value in vars(self).items() if name in FIELDS})


def _decoder_config(fields: Mapping[str, Any]) -> DecoderConfig:
    """Return a checked config; levels may be objects or plain data."""
    levels = fields.get("levels", ())
    if not isinstance(levels, list | tuple) or not all(isinstance(level, Level | dict) for level in levels):
        raise ValueError(f"levels are {levels!r}; give a list of Level, or of what Level.to_dict returns")
    plain = [level.to_dict() if isinstance(level, Level) else level for level in levels]
    try:
        return DecoderConfig.from_dict({**fields, "levels": plain})
    except (TypeError, KeyError) as error:
        raise ValueError(f"the model's config has a level that is none ({error}); write it by Level.to_dict") from None
