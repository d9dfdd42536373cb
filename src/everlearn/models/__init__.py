"""The models."""

from everlearn.models.checkpoint import load_model, save_model
from everlearn.models.config import DecoderConfig
from everlearn.models.decoder import Decoder
from everlearn.models.presets import PRESETS, preset
from everlearn.models.protocol import TextModel
from everlearn.models.sizes import SIZES, sized

__all__ = [
    "PRESETS",
    "SIZES",
    "Decoder",
    "DecoderConfig",
    "TextModel",
    "load_model",
    "preset",
    "save_model",
    "sized",
]
