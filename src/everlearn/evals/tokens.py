"""A text as the tokens of any tokenizer, and the bytes that each of them stands for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """A text that a model can read.

    Args:
        ids: [T] int64.
        bytes: UTF-8 bytes of the text that each token brings, [T] int64; they add up to the bytes of the text.
    """

    ids: Tensor
    bytes: Tensor

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.ids)

    def first(self, count: int) -> Tokens:
        """Return the first `count` tokens.

        Raises:
            ValueError: there are fewer.
        """
        if len(self) < count:
            raise ValueError(
                f"a text of {len(self)} tokens is too short: {count} are needed; give a longer one or read fewer tokens"
            )
        return Tokens(self.ids[:count], self.bytes[:count])


def encode(tokenizer: Any, text: str) -> Tensor:
    """Return the tokens of a text, without special ones, [T] int64."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return torch.tensor(ids, dtype=torch.long)


def tokens(tokenizer: Any, text: str) -> Tokens:
    """Return the tokens of a text with the bytes of each.

    A token brings the bytes from where the ones before it ended to where it ends, so that spaces which a tokenizer
    drops, and characters which it cuts in two, are counted once.

    Args:
        tokenizer: of transformers, one that knows offsets ("fast").
        text: what is read.
    Raises:
        ValueError: a tokenizer without offsets.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} cannot say which characters a token stands for; bits per byte need a fast "
            "tokenizer; load it with AutoTokenizer.from_pretrained(..., use_fast=True)"
        )
    out = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    upto = [0]
    for character in text:
        upto.append(upto[-1] + len(character.encode()))
    counts, reached = [], 0
    for _, end in out["offset_mapping"]:
        counts.append(max(0, upto[end] - reached))
        reached = max(reached, upto[end])
    if counts:
        # spaces that a tokenizer drops at the very end
        counts[-1] += upto[-1] - reached
    return Tokens(torch.tensor(out["input_ids"], dtype=torch.long), torch.tensor(counts, dtype=torch.long))


def bits_per_byte(nll: Tensor, counts: Tensor) -> float:
    """Return what a text costs: nats of tokens, [N], over the bytes that they stand for, [N], in bits per byte."""
    return float(nll.sum()) / math.log(2) / float(counts.sum())
