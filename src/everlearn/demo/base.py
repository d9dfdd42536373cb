"""The base model of the demo: trained here, on text that every machine has."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from everlearn.demo.corpus import Document, fingerprint, standard_library
from everlearn.layout import CONFIG
from everlearn.models import Decoder, load_model, save_model
from everlearn.models.text import encode
from everlearn.recipes import byte_reader
from everlearn.train import train


def load_or_train(
    folder: Path, *, seed: int = 0, quick: bool = False, on_step: Callable[[int, float], None] | None = None
) -> tuple[Decoder, dict[str, Any]]:
    """Return the model in `folder`; when there is none, train one on the standard library and keep it there.

    Args:
        folder: of the model.
        seed: of the start and of the order of the text.
        quick: train for a sixth of the steps.
        on_step: called with steps done and the last loss in bits per byte, only while it trains.
    Returns:
        model: ready to read.
        about: where it comes from: train_bytes, steps, seconds, parameters, seed, python's sample.
    """
    if (folder / CONFIG).exists():
        return load_model(folder)
    documents, _ = standard_library(byte_reader.TRAIN_BYTES)
    config = byte_reader.training(seed, quick)
    torch.manual_seed(seed)
    model = Decoder(byte_reader.model())
    start = time.perf_counter()
    losses = train(model, encode(join(documents)), config, on_step)
    about = {
        "train_bytes": config.steps * config.batch_size * config.length,
        "text_bytes": sum(len(d.data) for d in documents),
        "steps": config.steps,
        "seconds": round(time.perf_counter() - start, 1),
        "parameters": sum(p.numel() for p in model.parameters()),
        "last_loss": sum(losses[-20:]) / len(losses[-20:]),
        "seed": seed,
        "text": fingerprint(documents),
    }
    save_model(model, folder, about)
    return model, about


def join(documents: list[Document]) -> bytes:
    """Return the documents as one text."""
    return b"\n".join(document.data for document in documents)
