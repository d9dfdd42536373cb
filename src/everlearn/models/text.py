"""Bytes as tokens: no vocabulary to download, and every file can be read."""

from __future__ import annotations

import torch
from torch import Tensor


def encode(text: str | bytes) -> Tensor:
    """Return the UTF-8 bytes of a text as token numbers, [T] int64 in 0..255.

    Raises:
        ValueError: neither text nor bytes, or text with half of a surrogate pair, which UTF-8 cannot hold.
    """
    if not isinstance(text, str | bytes):
        raise ValueError(f"got {type(text).__name__} where a text is needed; give str or bytes")
    try:
        data = text.encode() if isinstance(text, str) else text
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text is not valid Unicode at character {error.start} ({text[error.start]!r}); "
            "read it again with the right encoding"
        ) from None
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).long() if data else torch.zeros(0, dtype=torch.long)


def decode(ids: Tensor) -> str:
    """Return the text of byte tokens, [T]; what is not UTF-8 becomes the replacement character."""
    return bytes(ids.tolist()).decode(errors="replace")
