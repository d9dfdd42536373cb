"""Where each row's chunks end: streams cut into pieces that lie within one chunk of every memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from everlearn.ops.self_modifying.rule import SelfModifyingRule


@dataclass(frozen=True)
class Piece:
    """Tokens of one call that lie within one chunk.

    Args:
        start: first position on the grid.
        stop: the one after the last.
        main_ends: whether the main memory's chunk ends with it: for all rows, or of each group [G] bool.
        others_end: the same of the other memories.
    """

    start: int
    stop: int
    main_ends: bool | Tensor
    others_end: bool | Tensor


@dataclass(frozen=True)
class Layout:
    """How the tokens of one call lie on a grid on which every row's chunks end at the same places.

    Args:
        cuts: (start, stop) of each piece on the grid.
        main_ends: of each piece, for all rows or for each, [B] bool.
        others_end: like `main_ends`.
        shift: how far each row's first token lies from the start of the grid, [B], or None where it is 0.
        mask: [B, length of the grid] bool, real tokens on the grid, or None where all are.
        length: tokens of the call, T.
        filled: tokens since the last boundary of all memories after the call, [B].
    """

    cuts: Sequence[tuple[int, int]]
    main_ends: Sequence[bool | Tensor]
    others_end: Sequence[bool | Tensor]
    shift: Tensor | None
    mask: Tensor | None
    length: int
    filled: Tensor

    def groups(self, x: Tensor) -> Tensor:
        """Place [B, T, H, D] on the grid, as [B * H, L, D], with zeros for padding."""
        if self.shift is not None and self.mask is not None:
            places = torch.arange(self.cuts[-1][1], device=x.device) - self.shift[:, None]
            x = x.take_along_dim(places.clamp(0, self.length - 1)[:, :, None, None], 1)
            x = x.masked_fill(~self.mask[:, :, None, None], 0)
        return x.transpose(1, 2).flatten(0, 1)

    def rows(self, y: Tensor, heads: int) -> Tensor:
        """Take [B * H, L, D] from the grid, as [B, T, H, D]."""
        y = y.unflatten(0, (-1, heads)).transpose(1, 2)
        if self.shift is None:
            return y
        places = torch.arange(self.length, device=y.device) + self.shift[:, None]
        return y.take_along_dim(places[:, :, None, None], 1)

    def live(self, heads: int, dtype: torch.dtype) -> Tensor | None:
        """Return 1 for real tokens and 0 for padding, [B * H, L], or None where all are real."""
        return None if self.mask is None else self.mask.to(dtype).repeat_interleave(heads, 0)

    def pieces(self, heads: int) -> list[Piece]:
        """Return the pieces, with what ends for each of the B * H groups."""

        def spread(ends: bool | Tensor) -> bool | Tensor:
            return ends if isinstance(ends, bool) else ends.repeat_interleave(heads)

        flags = zip(self.cuts, self.main_ends, self.others_end, strict=True)
        return [Piece(*cut, spread(main), spread(others)) for cut, main, others in flags]


def lay_out(filled: Tensor, length: int, mask: Tensor | None, rule: SelfModifyingRule) -> Layout:
    """Cut one call into pieces.

    Rows that all stand at the same place of their chunks, without padding, are cut where those end. Other rows are
    shifted, with padding before and after, until their chunks end together.

    Args:
        filled: tokens of each row since the last boundary of all memories, [B].
        length: T >= 1.
        mask: [B, T] bool, real tokens first, or None.
        rule: the chunk sizes.
    """
    counts = filled.tolist()
    if mask is not None and bool(mask.all()):
        mask = None
    if mask is None and len(set(counts)) <= 1:
        return _together(filled, counts[0] if counts else 0, length, rule)
    return _shifted(filled, length, mask, rule)


def _together(filled: Tensor, first: int, length: int, rule: SelfModifyingRule) -> Layout:
    """Cut rows that stand at the same place."""
    size = min(rule.chunk_size, rule.others)
    stops = [*range(size - first % size, length, size), length]
    cuts = list(zip([0, *stops], stops, strict=False))
    main, others = ([(first + stop) % period == 0 for stop in stops] for period in (rule.chunk_size, rule.others))
    return Layout(cuts, main, others, None, None, length, (filled + length) % rule.period)


def _shifted(filled: Tensor, length: int, mask: Tensor | None, rule: SelfModifyingRule) -> Layout:
    """Shift rows until their chunks end together; a single token needs no shift: it is a piece of its own."""
    size = 1 if length == 1 else min(rule.chunk_size, rule.others)
    tokens = torch.full_like(filled, length) if mask is None else mask.sum(1)
    shift = filled % size
    grid = -(-int((shift + tokens).max()) // size) * size
    grid = max(grid, size)
    places = torch.arange(grid, device=filled.device) - shift[:, None]
    cuts = [(start, start + size) for start in range(0, grid, size)]
    # a piece ends in a row only if the row's own tokens reach that far
    stops = [stop - shift for _, stop in cuts]
    main, others = (
        [_flag((stop <= tokens) & ((filled + stop) % period == 0)) for stop in stops]
        for period in (rule.chunk_size, rule.others)
    )
    real = (places >= 0) & (places < tokens[:, None])
    return Layout(cuts, main, others, shift, real, length, (filled + tokens) % rule.period)


def _flag(rows: Tensor) -> bool | Tensor:
    """Return one word where all rows agree."""
    first = bool(rows[0])
    return first if bool((rows == first).all()) else rows
