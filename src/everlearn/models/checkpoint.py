"""A decoder on disk: its config as JSON, its parameters as safetensors, both checked on load."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from everlearn.layout import CONFIG
from everlearn.memory.codec import load_tensors, save_tensors
from everlearn.memory.files import atomic_write
from everlearn.models.alphabet import BYTES, Alphabet
from everlearn.models.bpe import BPE, vocabulary
from everlearn.models.config import DecoderConfig
from everlearn.models.decoder import Decoder, fingerprint

WEIGHTS, VOCABULARY = "model.safetensors", "tokenizer.json"


def save_model(model: Decoder, folder: Path, about: dict[str, Any] | None = None) -> None:
    """Write a model into a folder, which is made when it is missing.

    Args:
        model: its parameters and config are written.
        folder: where to.
        about: JSON data on its origin (data, steps, scores), kept beside the weights.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    meta = {"fingerprint": model.fingerprint(), "about": about or {}}
    if pieces := vocabulary(model.alphabet):
        # without it a text of pieces cannot be read
        meta["vocabulary"] = hashlib.sha256(pieces.encode()).hexdigest()
        atomic_write(folder / VOCABULARY, pieces.encode())
    save_tensors(folder / WEIGHTS, {name: t.detach() for name, t in model.state_dict().items()}, meta)
    # written last: a folder with a config holds a whole model
    atomic_write(folder / CONFIG, json.dumps(model.config.to_dict(), indent=2).encode())


def load_model(folder: Path) -> tuple[Decoder, dict[str, Any]]:
    """Read a model that `save_model` wrote.

    Returns:
        model: in evaluation mode.
        about: the JSON data that was saved with it.
    Raises:
        ValueError: no model there, or one that is not whole or was changed.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder} holds no model ({CONFIG} is missing); give a folder that everlearn wrote")
    try:
        config = DecoderConfig.from_dict(json.loads((folder / CONFIG).read_text()))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{folder / CONFIG} is not a model's config ({error}); use a backup of it") from None
    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"{folder} holds no whole model ({WEIGHTS} is missing); copy the whole folder again")
    tensors, meta = load_tensors(folder / WEIGHTS)
    # before anything is built: a config that was edited could ask for any size
    alphabet = load_alphabet(folder, meta.get("vocabulary"))
    if fingerprint(config, tensors, vocabulary(alphabet)) != meta.get("fingerprint"):
        raise ValueError(f"{folder / WEIGHTS} and {CONFIG} are not of one model; copy both from the same run")
    model = Decoder(config)
    model.alphabet = alphabet
    model.load_state_dict(tensors, assign=True)
    return model.eval(), meta["about"]


def load_alphabet(folder: Path, sha256: str | None) -> Alphabet:
    """Return the vocabulary in a model's folder, or bytes where the model has none.

    Args:
        folder: of the model.
        sha256: of the vocabulary that the weights were saved with; None for bytes.
    Raises:
        ValueError: it is missing, or another one.
    """
    if sha256 is None:
        return BYTES
    file = folder / VOCABULARY
    data = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(data).hexdigest() != sha256:
        got = "was changed" if data else "is missing"
        raise ValueError(f"{file} {got}, and the model's tokens mean nothing without it; copy the whole folder again")
    return BPE(data.decode())
