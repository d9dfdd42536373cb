"""The models; what needs Hugging Face is imported when it is first used."""

from typing import Any

from everlearn.models.checkpoint import load_model, save_model
from everlearn.models.config import DecoderConfig
from everlearn.models.decoder import Decoder
from everlearn.models.presets import PRESETS, preset
from everlearn.models.protocol import TextModel
from everlearn.models.sizes import SIZES, sized

_OF_HUGGING_FACE = ("HopeConfig", "HopeForCausalLM", "HopeModel", "MemoryCache")

__all__ = [
    "PRESETS",
    "SIZES",
    "Decoder",
    "DecoderConfig",
    "HopeConfig",
    "HopeForCausalLM",
    "HopeModel",
    "MemoryCache",
    "TextModel",
    "load_model",
    "preset",
    "save_model",
    "sized",
]


def __getattr__(name: str) -> Any:
    if name in _OF_HUGGING_FACE:
        from everlearn.models import hf

        return vars(hf)[name]
    raise AttributeError(f"module 'everlearn.models' has no attribute {name!r}")
