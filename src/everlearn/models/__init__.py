"""The models."""

from everlearn.models.alphabet import Alphabet
from everlearn.models.bpe import BPE, train_bpe
from everlearn.models.checkpoint import load_model, save_model
from everlearn.models.config import DecoderConfig
from everlearn.models.decoder import Decoder
from everlearn.models.presets import PRESETS, preset
from everlearn.models.protocol import TextModel

__all__ = [
    "BPE",
    "PRESETS",
    "Alphabet",
    "Decoder",
    "DecoderConfig",
    "TextModel",
    "load_model",
    "preset",
    "save_model",
    "train_bpe",
]
