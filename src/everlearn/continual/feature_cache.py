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

BLOCK = 1_024  # items in one file


class FeatureCache:
    """Encode items, or read from a folder what the same encoder made of the same items before.

    Items are encoded and kept in blocks, so an interrupted run loses one block at most. A file that is damaged is made
    again. The items themselves are not written; their features say things about them, so treat the folder as you
    treat the items.

    Args:
        encoder: what makes the features; its `settings` are part of every file's name.
        folder: where the files are; made when it is missing.
        on_items: called with the number of items that are done since the last call.
        key: item -> what tells it from others, as JSON can hold it; a text is its own.
    Example:
        >>> import tempfile
        >>> from everlearn.continual import HashedText
        >>> cached = FeatureCache(HashedText(8), tempfile.mkdtemp())
        >>> bool((cached(["a text", "another"]) == cached(["a text", "another"])).all())
        True
    """

    def __init__(
        self,
        encoder: Encoder,
        folder: Path | str,
        *,
        on_items: Callable[[int], None] = lambda count: None,
        key: Callable[[Any], Any] = lambda item: item,
    ) -> None:
        self.encoder, self.folder, self.on_items, self.key = encoder, Path(folder), on_items, key
        self.dim = encoder.dim

    def __call__(self, items: Sequence[Any]) -> Tensor:
        """Return features, [B, dim] float32; what the encoder raises for bad items passes through."""
        self.folder.mkdir(parents=True, exist_ok=True)
        parts = [torch.zeros(0, self.dim)]
        for start in range(0, len(items), BLOCK):
            block = items[start : start + BLOCK]
            parts.append(self._block(block))
            self.on_items(len(block))
        return torch.cat(parts)

    def settings(self) -> dict[str, Any]:
        """Return those of the encoder: where features are kept changes nothing."""
        return self.encoder.settings()

    def _block(self, items: Sequence[Any]) -> Tensor:
        """Return the features of one block, from its file where there is a whole one."""
        named = json.dumps([self.encoder.settings(), [self.key(item) for item in items]], sort_keys=True)
        file = self.folder / f"{hashlib.sha256(named.encode()).hexdigest()}.safetensors"
        if file.is_file():
            try:
                return load_tensors(file)[0]["features"]
            except ValueError:
                file.unlink()
        features = self.encoder(items)
        save_tensors(file, {"features": features}, {})
        return features
