"""Features that are computed once: kept on the disk by what was encoded and by the encoder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everlearn.continual.features import Encoder
from everlearn.memory.codec import load_tensors, save_tensors

BLOCK = 1_024  # texts in one file


class FeatureCache:
    """Encode texts, or read from a folder what the same encoder made of the same texts before.

    Texts are encoded and kept in blocks, so an interrupted run loses one block at most. A file that is damaged is made
    again. The texts themselves are not written; their features say things about them, so treat the folder as you
    treat the texts.

    Args:
        encoder: what makes the features; its `settings` are part of every file's name.
        folder: where the files are; made when it is missing.
        on_texts: called with the number of texts that are done since the last call.
    Example:
        >>> import tempfile
        >>> from everlearn.continual import HashedText
        >>> cached = FeatureCache(HashedText(8), tempfile.mkdtemp())
        >>> bool((cached(["a text", "another"]) == cached(["a text", "another"])).all())
        True
    """

    def __init__(
        self, encoder: Encoder, folder: Path | str, *, on_texts: Callable[[int], None] = lambda count: None
    ) -> None:
        self.encoder, self.folder, self.on_texts = encoder, Path(folder), on_texts
        self.dim = encoder.dim

    def __call__(self, items: Sequence[str]) -> Tensor:
        """Return features, [B, dim] float32; what the encoder raises for bad items passes through."""
        self.folder.mkdir(parents=True, exist_ok=True)
        parts = [torch.zeros(0, self.dim)]
        for start in range(0, len(items), BLOCK):
            block = items[start : start + BLOCK]
            parts.append(self._block(block))
            self.on_texts(len(block))
        return torch.cat(parts)

    def settings(self) -> dict[str, Any]:
        """Return those of the encoder: where features are kept changes nothing."""
        return self.encoder.settings()

    def _block(self, items: Sequence[str]) -> Tensor:
        """Return the features of one block, from its file where there is a whole one."""
        named = json.dumps([self.encoder.settings(), list(items)], sort_keys=True)
        file = self.folder / f"{hashlib.sha256(named.encode()).hexdigest()}.safetensors"
        if file.is_file():
            try:
                return load_tensors(file)[0]["features"]
            except ValueError:
                file.unlink()
        features = self.encoder(items)
        save_tensors(file, {"features": features}, {})
        return features
