"""Bytes as tokens: no vocabulary to download, and every file can be read."""

from __future__ import annotations

import torch
from torch import Tensor


def encode(text: str | bytes) -> Tensor:
    """Return the UTF-8 bytes of a text as token numbers, [T] int64 in 0..255."""
    data = text.encode() if isinstance(text, str) else text
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).long() if data else torch.zeros(0, dtype=torch.long)


def decode(ids: Tensor) -> str:
    """Return the text of byte tokens, [T]; what is not UTF-8 becomes the replacement character."""
    return bytes(ids.tolist()).decode(errors="replace")
