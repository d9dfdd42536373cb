"""A decoder on disk: its config as JSON, its parameters as safetensors, both checked on load; its tokenizer, if any."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from everlearn.layout import CONFIG
from everlearn.memory.codec import load_tensors, save_tensors
from everlearn.memory.files import atomic_write
from everlearn.models.alphabet import Pieces
from everlearn.models.config import DecoderConfig
from everlearn.models.decoder import Decoder, fingerprint
from everlearn.models.tokenizer import load_tokenizer, save_tokenizer

WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer"


def save_model(model: Decoder, folder: Path, about: dict[str, Any] | None = None) -> None:
    """Write a model into a folder, which is made when it is missing.

    Args:
        model: its parameters and config are written, and the tokenizer that it reads with.
        folder: where to.
        about: JSON data on its origin (data, steps, scores), kept beside the weights.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    meta: dict[str, Any] = {"fingerprint": model.fingerprint(), "about": about or {}}
    if isinstance(model.alphabet, Pieces):
        save_tokenizer(model.alphabet.tokenizer, folder / TOKENIZER)
        meta["tokenizer"] = True
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
    if fingerprint(config, tensors) != meta.get("fingerprint"):
        raise ValueError(f"{folder / WEIGHTS} and {CONFIG} are not of one model; copy both from the same run")
    model = Decoder(config)
    _check_whole(folder / WEIGHTS, model, tensors)
    model.load_state_dict(tensors, assign=True)
    if meta.get("tokenizer"):
        model = model.with_tokenizer(load_tokenizer(folder / TOKENIZER))
    return model.eval(), meta["about"]


def _check_whole(file: Path, model: Decoder, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not those of the model's config.

    Raises:
        ValueError: one is missing, left over or of another shape.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted({*wanted, *found}):
        if wanted.get(name) != found.get(name):
            raise ValueError(
                f"{file} holds {found.get(name, 'nothing')} as {name!r}, but its config asks for "
                f"{wanted.get(name, 'nothing')}; copy the whole folder again"
            )
