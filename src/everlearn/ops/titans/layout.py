"""Where the tokens of each row stand among the chunks, and what a call may be given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from everlearn.ops.blocks import from_blocks, to_blocks


@dataclass(frozen=True)
class Layout:
    """Where the tokens of each row stand in pieces that end no later than the chunks do.

    Rows may stand at different places of their open chunks: piece n holds what each row's n-th chunk gets of this call.
    Nothing is read from the device, so the number of pieces is what the worst place of a row would need.

    Args:
        length: tokens that were given, T.
        size: slots of a piece.
        count: pieces.
        index: the token of each slot, [B, count * size]; None where slots are tokens, in order.
        real: slots that hold a token, [B, count * size] bool; None means that all do.
        back: the slot of each token, [B, T]; None where slots are tokens, in order.
        total: tokens of the open chunk and of this call, [B].
    """

    length: int
    size: int
    count: int
    index: Tensor | None
    real: Tensor | None
    back: Tensor | None
    total: Tensor

    @classmethod
    def of(
        cls, length: int, chunk_size: int, filled: Tensor, mask: Tensor | None, *, fresh: bool, crosses: bool
    ) -> Layout:
        """Lay out T tokens; `fresh` rows stand at the start of a chunk, and no chunk ends before T unless `crosses`."""
        total = filled + (length if mask is None else mask.sum(1))
        if length == 1 or not crosses:
            return cls(length, length, 1, None, mask, None, total)
        size = min(chunk_size, length)
        if fresh:
            count = -(-length // chunk_size)
            if mask is None and length == count * size:
                return cls(length, size, count, None, None, None, total)
            mask = torch.ones(len(filled), length, dtype=torch.bool, device=filled.device) if mask is None else mask
            return cls(length, size, count, None, F.pad(mask, (0, count * size - length)), None, total)
        count = -(-(chunk_size - 1 + length) // chunk_size)
        at = filled.unsqueeze(1)
        ends = torch.arange(1, count + 1, device=at.device) * chunk_size - at
        begins = (ends - chunk_size).clamp(min=0)
        index = begins.unsqueeze(2) + torch.arange(size, device=at.device)
        real = index < torch.minimum(ends, total.unsqueeze(1) - at).unsqueeze(2)
        tokens = torch.arange(length, device=at.device)
        piece = (at + tokens) // chunk_size
        back = piece * size + tokens - begins.take_along_dim(piece, 1)
        return cls(length, size, count, index.flatten(1).clamp(max=length - 1), real.flatten(1), back, total)


def place(x: Tensor, layout: Layout) -> Tensor:
    """Put [B, T, H, ...] into pieces, [B*H*N, C, ...]; slots without a token hold zeros."""
    if layout.index is not None:
        x = x.take_along_dim(_along(layout.index, x), 1)
    elif layout.real is not None:
        x = F.pad(x, (*[0, 0] * (x.ndim - 2), 0, layout.count * layout.size - layout.length))
    if layout.real is not None:
        x = x.masked_fill(~_along(layout.real, x), 0)
    return to_blocks(x, layout.size)


def take(x: Tensor, layout: Layout, rows: int, heads: int) -> Tensor:
    """Bring [B*H*N, C, ...] back to [B, T, H, ...]."""
    x = from_blocks(x, rows, heads)
    return x[:, : layout.length] if layout.back is None else x.take_along_dim(_along(layout.back, x), 1)


def _along(places: Tensor, x: Tensor) -> Tensor:
    """Give [B, T] the dimensions of x, [B, T, ...]."""
    return places.reshape(*places.shape, *[1] * (x.ndim - 2))


def check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scalars: dict[str, Tensor | None],
    start: Sequence[Tensor],
    mask: Tensor | None,
    chunk_size: int,
    residual: bool,
    max_norm: float | None,
) -> None:
    """Raise one clear line for whatever does not fit the keys."""
    if chunk_size < 1:
        raise ValueError(f"chunk_size {chunk_size} is below 1; give a whole number of tokens, such as 16")
    if max_norm is not None and not max_norm > 0:
        raise ValueError(f"max_norm {max_norm} is not above zero, so nothing would be written; try 2.0, or None")
    if k.ndim != 4:
        raise ValueError(f"k has shape {tuple(k.shape)}; give [B, T, H, D], with one head as [B, T, 1, D]")
    tokens = tuple(k.shape[:3])
    wanted = {"q": tuple(k.shape), "v": (*tokens, v.shape[-1]), **dict.fromkeys(scalars, tokens)}
    for name, x in {"q": q, "v": v, **scalars}.items():
        if x is not None and tuple(x.shape) != wanted[name]:
            given = tuple(x.shape)
            raise ValueError(f"{name} has shape {given}, but keys {tuple(k.shape)} need {wanted[name]}; reshape {name}")
    _check_memory(tuple(tuple(w.shape) for w in start), k.shape[2], k.shape[3], v.shape[3], residual)
    if mask is None:
        return
    if mask.dtype != torch.bool or mask.shape != k.shape[:2] or bool((mask[:, 1:] & ~mask[:, :-1]).any()):
        raise ValueError(
            f"mask is {mask.dtype} of shape {tuple(mask.shape)}; give bool of shape {tuple(k.shape[:2])} "
            "with each row's real tokens first"
        )


def check_state(parts: Sequence[Sequence[Tensor]], filled: Tensor, wanted: list[tuple[int, ...]]) -> None:
    """Refuse a state of another memory: each part holds one tensor for each shape, `filled` one number per row."""
    given = [[tuple(w.shape) for w in part] for part in parts]
    if any(shapes != wanted for shapes in given) or filled.shape != (wanted[0][0],):
        raise ValueError(
            f"the state holds {[tuple(w.shape) for part in parts for w in part]}, but this memory needs {wanted} for "
            "each of its parts; pass the state of the same rows and the same memory, or None for a fresh stream"
        )


def _check_memory(shapes: tuple[tuple[int, ...], ...], heads: int, dim: int, dim_v: int, residual: bool) -> None:
    """Refuse matrices that do not follow each other from a key to a value."""
    if residual and dim != dim_v:
        raise ValueError(f"residual adds a key of {dim} to a value of {dim_v}; give values of {dim}, or residual=False")
    widths = [dim]
    for shape in shapes:
        if len(shape) != 3 or shape[0] != heads or shape[2] != widths[-1]:
            raise ValueError(
                f"start holds a matrix {shape}, but it must be ({heads}, out, {widths[-1]}); give matrices in the "
                "order of application, one for each head"
            )
        widths.append(shape[1])
    if len(shapes) < 1 or widths[-1] != dim_v:
        raise ValueError(
            f"start ends with {widths[-1]} numbers, but a value has {dim_v}; give at least one matrix and "
            f"{dim_v} rows in the last"
        )
