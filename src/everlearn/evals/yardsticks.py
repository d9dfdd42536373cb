"""What a language model has to beat: compressors that everyone has, and an n-gram that counts."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Iterable
from dataclasses import dataclass

from everlearn.evals.ngram import ByteNgram

ORDER = 5


def gzip_bits(data: bytes) -> float:
    """Return the bits per byte of a text that gzip packs at its best setting; headers count.

    Example:
        >>> gzip_bits(b"a" * 1000) < 0.3 < gzip_bits(bytes(range(256)))
        True
    """
    return 8 * len(gzip.compress(data, 9, mtime=0)) / len(data)


def xz_bits(data: bytes) -> float:
    """Return the bits per byte of a text that xz packs at its best setting; headers count."""
    return 8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) / len(data)


@dataclass(frozen=True)
class Counted:
    """Bits per byte of a text under an n-gram; the first byte, which a model is not asked for, is left out.

    Args:
        frozen: with the counts of the training text alone; None where that is not at hand.
        learning: counting what it reads as well.
    """

    frozen: float | None
    learning: float


def trained_ngram(texts: Iterable[bytes], order: int = ORDER) -> ByteNgram:
    """Return an n-gram that has counted these texts; none of them leaves an empty one."""
    model = ByteNgram(order)
    for text in texts:
        model.train(text)
    return model


def counted(model: ByteNgram, data: bytes, *, trained: bool) -> Counted:
    """Score one document; the model's counts stay as they are.

    Args:
        model: of `trained_ngram`.
        data: at least two bytes.
        trained: whether the model has counted anything; an empty one predicts nothing while it is frozen.
    """
    frozen = float(model.bits(data)[1:].mean()) if trained else None
    return Counted(frozen, float(model.copy().bits(data, learn=True)[1:].mean()))
