"""Features that need no training: random ReLU features of pixels, hashed character n-grams of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


class Encoder(Protocol):
    """What turns items into features, always the same way: it never learns.

    Attributes:
        dim: length D of a feature vector.
    """

    dim: int

    def __call__(self, items: Any) -> Tensor:
        """Return features, [B, D]; those of an item must not depend on the other items of the call."""

    def settings(self) -> dict[str, Any]:
        """Return what identifies the encoder, as JSON can hold it; two encoders that differ must differ here."""


class RandomReLU:
    """Project vectors at random and cut at zero: random features as in RanPAC, drawn once from a seed.

        phi = max(0, A (scale x) + b)

    A has entries of variance gain^2 / dim_in, b of variance gain^2 / 4. The draw is numpy's RandomState, whose stream
    is fixed for good. Products are taken in float64, so that an item's features do not depend on the others of its
    batch. No statistic of the data is used: nothing looks ahead.

    Args:
        dim_in: length of an input vector.
        dim: number of features.
        scale: brings the inputs to about unit size; 1/16 for the digits.
        gain: size of the features.
        seed: of the projection.
    Raises:
        ValueError: a size below one, or a scale or gain that is not above zero.
    """

    def __init__(self, dim_in: int, dim: int = 500, *, scale: float = 1.0, gain: float = 2.0, seed: int = 0) -> None:
        if min(dim_in, dim) < 1 or min(scale, gain) <= 0:
            raise ValueError(
                f"RandomReLU({dim_in}, {dim}, scale={scale}, gain={gain}) has a value that is not above zero; "
                "give sizes >= 1 and a scale such as 1/16"
            )
        self.dim_in, self.dim, self.scale, self.gain, self.seed = dim_in, dim, scale, gain, seed
        draw = np.random.RandomState(seed)
        self._matrix = torch.from_numpy(draw.standard_normal((dim_in, dim))) * gain / dim_in**0.5
        self._bias = torch.from_numpy(draw.standard_normal(dim)) * gain / 2

    def __call__(self, items: Tensor) -> Tensor:
        """Return features, [B, dim] float32.

        Args:
            items: [B, ...] with dim_in numbers each, any dtype.
        Raises:
            ValueError: items of another size.
        """
        return (_vectors(items, self.dim_in) * self.scale @ self._matrix + self._bias).clamp_min(0).float()

    def settings(self) -> dict[str, Any]:
        """Return the arguments."""
        return {
            "kind": "random_relu",
            "dim_in": self.dim_in,
            "dim": self.dim,
            "scale": self.scale,
            "gain": self.gain,
            "seed": self.seed,
        }


class RawPixels:
    """Hand vectors through, scaled: the row that shows what random features add.

    Args:
        dim: length of an input vector.
        scale: as in `RandomReLU`.
    """

    def __init__(self, dim: int, *, scale: float = 1.0) -> None:
        self.dim, self.scale = dim, scale

    def __call__(self, items: Tensor) -> Tensor:
        """Return [B, dim] float32."""
        return (_vectors(items, self.dim) * self.scale).float()

    def settings(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"kind": "raw", "dim": self.dim, "scale": self.scale}


class HashedText:
    """Count character n-grams in hash buckets and project them at random: text features without training.

    Words of a language need no vocabulary, and a typing error moves few buckets. Signs +-1 from a fixed stream
    project the unit-norm counts to `dim` numbers, whose inner products are those of the counts within 1/sqrt(dim).
    It knows spelling, not meaning; for meaning use a sentence encoder of your own behind `Encoder`.

    Args:
        dim: number of features.
        ngrams: shortest and longest n-gram, inside word boundaries.
        buckets: hash buckets; the projection takes buckets x dim bytes.
        seed: of the projection.
    Raises:
        ValueError: a size below one.
    """

    def __init__(
        self, dim: int = 512, *, ngrams: tuple[int, int] = (2, 4), buckets: int = 2**14, seed: int = 0
    ) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer

        if min(dim, buckets, *ngrams) < 1 or ngrams[0] > ngrams[1]:
            raise ValueError(
                f"HashedText({dim}, ngrams={tuple(ngrams)}, buckets={buckets}) has a size below one or n-grams the "
                "wrong way round; try HashedText(512, ngrams=(2, 4))"
            )
        self.dim, self.ngrams, self.buckets, self.seed = dim, (ngrams[0], ngrams[1]), buckets, seed
        self._count = HashingVectorizer(analyzer="char_wb", ngram_range=self.ngrams, n_features=buckets)
        self._signs = np.random.RandomState(seed).randint(0, 2, (buckets, dim)).astype(np.int8) * 2 - 1

    def __call__(self, items: Sequence[str]) -> Tensor:
        """Return features, [B, dim] float32, of unit size per feature on average.

        Args:
            items: texts; an empty text gives zeros.
        Raises:
            ValueError: one bare text instead of a list of them, or an item that is no text.
        """
        check_texts(items)
        if not len(items):
            return torch.zeros(0, self.dim)
        counts = self._count.transform(items)
        used = np.unique(counts.indices)
        return torch.from_numpy(counts[:, used] @ self._signs[used].astype(np.float64)).float()

    def settings(self) -> dict[str, Any]:
        """Return the arguments."""
        return {
            "kind": "hashed_text",
            "dim": self.dim,
            "ngrams": list(self.ngrams),
            "buckets": self.buckets,
            "seed": self.seed,
        }


def check_texts(items: Any) -> None:
    """Refuse what is not a list of texts.

    Raises:
        ValueError: one bare text, or an item that is no text.
    """
    if isinstance(items, str):
        raise ValueError(f"items are one text, {items[:40]!r}; give a list of texts")
    for index, item in enumerate(items):
        if not isinstance(item, str):
            raise ValueError(f"item {index} is of type {type(item).__name__}; this encoder takes a list of texts")


def _vectors(items: Any, size: int) -> Tensor:
    """Return items as [B, size] float64."""
    vectors = torch.as_tensor(items)
    if vectors.ndim < 2 or vectors[:1].numel() != size * len(vectors[:1]):
        raise ValueError(
            f"items have the shape {tuple(vectors.shape)}; this encoder takes a batch of items of {size} numbers each"
        )
    return vectors.reshape(len(vectors), size).double()


def encoder_from_settings(settings: dict[str, Any]) -> Encoder | None:
    """Return the built-in encoder that `settings` describe, or None for one that is not built in."""
    kinds = {"random_relu": RandomReLU, "raw": RawPixels, "hashed_text": HashedText}
    arguments = {name: value for name, value in settings.items() if name != "kind"}
    kind = kinds.get(settings.get("kind", ""))
    return kind(**arguments) if kind else None
