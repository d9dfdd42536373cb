"""What a run trains on and what it never sees: a hash of each block of the files decides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from everlearn.models.alphabet import BYTES, Alphabet

LARGEST_BLOCK, SMALLEST_BLOCK = 32_768, 256
BLOCKS = 40  # a small text is cut finer, so that there are about this many blocks to choose from
LINE = 1_024  # how far a cut may move to the end of a line


@dataclass(frozen=True)
class Part:
    """Neighbouring blocks of one file that have the same use.

    Args:
        name: of the file, and which of its bytes these are.
        data: UTF-8, cut at the end of a line where there is one, never inside a character.
    """

    name: str
    data: bytes


@dataclass(frozen=True)
class Split:
    """The parts that are trained on, and those that are held out."""

    train: list[Part]
    valid: list[Part]


@dataclass(frozen=True)
class Corpus:
    """Documents as tokens.

    Args:
        train: tokens of each document, [T] uint8 or int32.
        valid: the same, held out.
        alphabet: what the tokens stand for.
    """

    train: list[Tensor]
    valid: list[Tensor]
    alphabet: Alphabet = BYTES


def split(texts: Mapping[str, bytes], share: float) -> Split:
    """Divide texts: a block is held out when the SHA-256 of its bytes, as a number from 0 to 1, is below `share`.

    So the same block has the same use in every run, under any name and beside any other file. Where no block would be
    held out, or none trained on, the one with the lowest or the highest number is.

    Args:
        texts: name -> UTF-8 bytes.
        share: of the blocks to be held out, in (0, 1).
    Raises:
        ValueError: less text than makes two blocks.
    """
    total = sum(map(len, texts.values()))
    size = min(LARGEST_BLOCK, max(SMALLEST_BLOCK, total // BLOCKS))
    blocks = [(name, *place) for name, data in texts.items() for place in _blocks(data, size)]
    if len(blocks) < 2:
        raise ValueError(
            f"the data holds {total} bytes, which cannot be divided into text to train on and text held out; at least "
            f"{2 * SMALLEST_BLOCK} bytes are needed; give a longer file, or several"
        )
    places = [_place(texts[name][start:end]) for name, start, end in blocks]
    low, high = (chosen(range(len(places)), key=places.__getitem__) for chosen in (min, max))
    held = [i != high and (i == low or place < share) for i, place in enumerate(places)]
    if places[low] == places[high]:
        held = [i == len(places) - 1 for i in range(len(places))]
    return Split(*(_join(texts, blocks, held, use) for use in (False, True)))


def tokens(parts: Sequence[Part], alphabet: Alphabet) -> list[Tensor]:
    """Return the tokens of each part in the smallest type that holds them."""
    dtype = torch.uint8 if alphabet.size <= 256 else torch.int32
    return [alphabet.encode(part.data).to(dtype) for part in parts]


def _blocks(data: bytes, size: int) -> Iterator[tuple[int, int]]:
    """Yield where each block begins and ends; the last takes a rest of less than half a block."""
    start = 0
    while start < len(data):
        end = _cut(data, start + size)
        if len(data) - end < size // 2:
            end = len(data)
        yield start, end
        start = end


def _cut(data: bytes, near: int) -> int:
    """Return the place after the next end of line, or where the next character begins."""
    if near >= len(data):
        return len(data)
    if (newline := data.find(b"\n", near - 1, near + LINE)) >= 0:
        return newline + 1
    while near < len(data) and data[near] & 0xC0 == 0x80:
        near += 1
    return near


def _place(block: bytes) -> float:
    """Return the hash of a block as a number from 0 to 1."""
    return int.from_bytes(hashlib.sha256(block).digest()[:8], "big") / 2**64


def _join(
    texts: Mapping[str, bytes], blocks: Sequence[tuple[str, int, int]], held: Sequence[bool], use: bool
) -> list[Part]:
    """Put neighbouring blocks of one use together."""
    spans: list[tuple[str, int, int]] = []
    for (name, start, end), is_held in zip(blocks, held, strict=True):
        if is_held != use:
            continue
        if spans and spans[-1][0] == name and spans[-1][2] == start:
            spans[-1] = (name, spans[-1][1], end)
        else:
            spans.append((name, start, end))
    return [Part(f"{name}, bytes {start:,} to {end:,}", texts[name][start:end]) for name, start, end in spans]
