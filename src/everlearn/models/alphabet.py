"""What the tokens of a decoder stand for: bytes, or the pieces of a vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from everlearn.models import text


class Alphabet(Protocol):
    """Text as tokens and back; see `models.TextModel` for what each method promises."""

    @property
    def size(self) -> int:
        """Return how many tokens there are."""
        ...

    @property
    def start_ids(self) -> tuple[int, ...]:
        """Return the tokens that open a text."""
        ...

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Return the tokens that end one."""
        ...

    def encode(self, data: str | bytes) -> Tensor:
        """Return the tokens of a text, [T] int64."""
        ...

    def decode(self, ids: Tensor) -> str:
        """Return the text of tokens, [T]."""
        ...

    def count_bytes(self, ids: Tensor) -> Tensor:
        """Return how many bytes each token stands for, in the shape of `ids`."""
        ...


@dataclass(frozen=True)
class Bytes:
    """The 256 bytes of UTF-8: nothing to download, every file can be read, and a text just begins and ends."""

    size: int = 256
    start_ids: tuple[int, ...] = ()
    stop_ids: tuple[int, ...] = ()

    def encode(self, data: str | bytes) -> Tensor:
        """Return the bytes of a text, [T] int64."""
        return text.encode(data)

    def decode(self, ids: Tensor) -> str:
        """Return the text of bytes, [T]; what is not UTF-8 becomes the replacement character."""
        return text.decode(ids)

    def count_bytes(self, ids: Tensor) -> Tensor:
        """Return one for each token."""
        return torch.ones_like(ids)


BYTES = Bytes()
