"""What the tokens of a decoder stand for: bytes, or the pieces of a tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from everlearn.models import text, tokenizer


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


@dataclass(frozen=True)
class Pieces:
    """The tokens of a Hugging Face tokenizer.

    Args:
        tokenizer: of any kind; see `models.tokenizer` for how its tokens are counted.
    """

    tokenizer: Any

    @property
    def size(self) -> int:
        """Return how many tokens the tokenizer knows, added ones included."""
        return len(tokenizer.needed(self.tokenizer))

    @property
    def start_ids(self) -> tuple[int, ...]:
        """Return the tokens that the tokenizer puts before every text."""
        return tokenizer.start_ids(self.tokenizer)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Return the tokenizer's end of text, where it has one."""
        end = self.tokenizer.eos_token_id
        return () if end is None else (end,)

    def encode(self, data: str | bytes) -> Tensor:
        """Return the tokens of a text, [T] int64; see `models.tokenizer.encode`."""
        return tokenizer.encode(self.tokenizer, data)

    def decode(self, ids: Tensor) -> str:
        """Return the text of tokens, [T]."""
        return tokenizer.decode(self.tokenizer, ids)

    def count_bytes(self, ids: Tensor) -> Tensor:
        """Return how many bytes each token stands for; see `models.tokenizer.count_bytes`."""
        return tokenizer.count_bytes(self.tokenizer, ids)


BYTES = Bytes()
