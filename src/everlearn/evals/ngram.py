"""A byte n-gram: the yardstick that counts, without a network, frozen or learning while it reads."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
Counts = NDArray[np.int64]
Bits = NDArray[np.float64]
ALPHABET = 256


@dataclass
class _Table:
    """Counts of one context length: sorted keys, so that a lookup is a binary search.

    A gram is the context's bytes and the byte that followed, packed into one integer; `total` and `kinds` say how
    often a context was followed by anything, and by how many different bytes.
    """

    grams: Keys = field(default_factory=lambda: np.empty(0, np.uint64))
    counts: Counts = field(default_factory=lambda: np.empty(0, np.int64))
    contexts: Keys = field(default_factory=lambda: np.empty(0, np.uint64))
    total: Counts = field(default_factory=lambda: np.empty(0, np.int64))
    kinds: Counts = field(default_factory=lambda: np.empty(0, np.int64))

    def add(self, grams: Keys) -> _Table:
        """Return the table with these grams counted as well; the old one is untouched."""
        new, times = np.unique(grams, return_counts=True)
        merged, counts = _merge(self.grams, self.counts, new, times)
        contexts, first = np.unique(merged >> np.uint64(8), return_index=True)
        total = np.add.reduceat(counts, first) if len(first) else counts
        return _Table(merged, counts, contexts, total, np.diff(np.append(first, len(merged))))


class ByteNgram:
    """Predict each byte from the bytes before it by interpolated Witten-Bell smoothing.

        p_k(b | c) = (n(c b) + t(c) p_{k-1}(b | c')) / (n(c) + t(c)),    p_{-1} = 1/256

    c is the context of k bytes and c' the same without its oldest byte; n counts how often, t how many different
    bytes followed; a context never met passes p_{k-1} on. This is method C of Witten and Bell (IEEE Transactions on
    Information Theory 37, 1991), the escape of PPMC, in the interpolated form of Chen and Goodman (1999). Only
    `train` and `bits(..., learn=True)` change the counts.

    Args:
        order: bytes of context, 0 to 7.
    Raises:
        ValueError: an order outside that range.
    Example:
        >>> model = ByteNgram(order=2)
        >>> model.train(b"abcabcabc")
        >>> bool(model.bits(b"abcabc")[-1] < 1 < model.bits(b"abcabx")[-1])
        True
    """

    def __init__(self, order: int = 5):
        if not 0 <= order <= 7:
            raise ValueError(f"order {order} of the n-gram must be 0 to 7 bytes of context; 5 is the yardstick's")
        self.order = order
        self._tables = [_Table() for _ in range(order + 1)]

    def copy(self) -> ByteNgram:
        """Return an independent model with the same counts; it costs nothing, since tables are never changed."""
        other = ByteNgram(self.order)
        other._tables = list(self._tables)
        return other

    def train(self, data: bytes) -> None:
        """Count every byte of `data` after each of its contexts; call it again for another document."""
        self._tables = [table.add(_grams(data, k)) for k, table in enumerate(self._tables)]

    def bits(self, data: bytes, learn: bool = False) -> Bits:
        """Score each byte by -log2 of its probability before it was read.

        Args:
            data: one document; its first bytes have shorter contexts.
            learn: count each byte once it has been scored, so that later bytes profit; the counts stay afterwards.
        Returns:
            bits per byte, [len(data)].
        """
        probability = np.full(len(data), 1 / ALPHABET)
        for k, table in enumerate(self._tables):
            grams = _grams(data, k)
            count, total, kinds = _counts_before(table, grams, learn)
            # the first k bytes have no context of k bytes
            lower = probability[k:]
            mixed = (count + kinds * lower) / np.maximum(total + kinds, 1)
            probability[k:] = np.where(total > 0, mixed, lower)
        if learn:
            self.train(data)
        return -np.log2(probability)

    def distribution(self, context: bytes) -> Bits:
        """Return the probability of each of the 256 possible next bytes after `context`, [256]; it sums to 1."""
        probability = np.full(ALPHABET, 1 / ALPHABET)
        for k, table in enumerate(self._tables[: len(context) + 1]):
            prefix = int.from_bytes(context[len(context) - k :], "big") << 8
            count, total, kinds = _counts_before(table, np.uint64(prefix) + np.arange(ALPHABET, dtype=np.uint64), False)
            if total[0] > 0:
                probability = (count + kinds * probability) / (total + kinds)
        return probability


def _grams(data: bytes, k: int) -> Keys:
    """Pack each byte with the k bytes before it, the byte itself lowest; [max(0, len(data) - k)]."""
    values = np.frombuffer(data, np.uint8).astype(np.uint64)
    length = max(0, len(values) - k)
    packed = np.zeros(length, np.uint64)
    for offset in range(k + 1):
        packed = (packed << np.uint64(8)) | values[offset : offset + length]
    return packed


def _merge(keys: Keys, counts: Counts, new: Keys, times: Counts) -> tuple[Keys, Counts]:
    """Add counts to a sorted table: once where the key stands, once as an insertion where it does not."""
    place = np.searchsorted(keys, new)
    known = place < len(keys)
    known[known] = keys[place[known]] == new[known]
    counts = counts.copy()
    counts[place[known]] += times[known]
    return np.insert(keys, place[~known], new[~known]), np.insert(counts, place[~known], times[~known])


def _look_up(keys: Keys, values: Counts, wanted: Keys) -> Counts:
    if not len(keys):
        return np.zeros(len(wanted), np.int64)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)


def _counts_before(table: _Table, grams: Keys, learn: bool) -> tuple[Counts, Counts, Counts]:
    """Look up, for each gram, its count and its context's total and kinds: as stored, or as of just before it."""
    contexts = grams >> np.uint64(8)
    count = _look_up(table.grams, table.counts, grams)
    total = _look_up(table.contexts, table.total, contexts)
    kinds = _look_up(table.contexts, table.kinds, contexts)
    if not learn:
        return count, total, kinds
    seen = _earlier(grams, np.ones(len(grams), np.int64))
    first_ever = ((count + seen) == 0).astype(np.int64)
    return (
        count + seen,
        total + _earlier(contexts, np.ones(len(grams), np.int64)),
        kinds + _earlier(contexts, first_ever),
    )


def _earlier(keys: Keys, weights: Counts) -> Counts:
    """Sum, for each position, the weights of the earlier positions that hold the same key."""
    order = np.argsort(keys, kind="stable")
    ordered, running = keys[order], np.cumsum(weights[order])
    before = running - weights[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(keys) else np.empty(0, np.intp)
    lengths = np.diff(np.append(starts, len(keys)))
    result = np.empty(len(keys), np.int64)
    result[order] = before - np.repeat(before[starts], lengths)
    return result
