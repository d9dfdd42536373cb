"""Bits per byte by position in a document: of any model, and of gzip."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Bucket = tuple[int, int]


def bucket_means(bits: NDArray[np.float64], buckets: Sequence[Bucket]) -> list[float]:
    """Average the bits of each byte over ranges of positions.

    Args:
        bits: bits of each byte of one document, [N].
        buckets: half-open ranges of byte positions, (start, end).
    Returns:
        bits per byte, one number for each bucket.
    Raises:
        ValueError: a bucket is empty or reaches beyond the document.
    """
    check_buckets(len(bits), buckets)
    return [float(np.mean(bits[start:end])) for start, end in buckets]


def gzip_bits(data: bytes, buckets: Sequence[Bucket], context: bytes = b"") -> list[float]:
    """Say how many bits gzip spends on each byte of a range, as the growth of the compressed file.

        bits(start, end) = 8 (size(context + data[:end]) - size(context + data[:start])) / (end - start)

    size is that of a zlib stream at level 9; what every stream costs (header, checksum) cancels in the difference.
    Unlike a model it sees all of a prefix before it chooses its codes; it looks back 32,768 bytes at most, knows
    nothing from another document unless `context` gives it, and rounds to whole bytes, which makes short ranges
    coarse. It is a familiar yardstick, not a strong compressor.

    Args:
        data: one document.
        buckets: half-open ranges of byte positions in `data`.
        context: text that gzip may look back to and that is not counted.
    Raises:
        ValueError: a bucket is empty or reaches beyond the document.
    """
    check_buckets(len(data), buckets)
    edges = sorted({edge for bucket in buckets for edge in bucket})
    size = {edge: len(zlib.compress(context + data[:edge], 9)) for edge in edges}
    return [8 * (size[end] - size[start]) / (end - start) for start, end in buckets]


def check_buckets(length: int, buckets: Sequence[Bucket]) -> None:
    """Refuse a bucket that holds no byte of a document of `length` bytes, or that reaches beyond it."""
    for start, end in buckets:
        if not 0 <= start < end <= length:
            raise ValueError(
                f"bucket [{start}, {end}) does not fit: got a document of {length} bytes; "
                "a bucket needs 0 <= start < end <= its length; choose a longer document or smaller buckets"
            )
