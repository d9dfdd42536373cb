"""The loop over pieces: what runs along the sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from everlearn.ops.self_modifying.layout import Piece
from everlearn.ops.self_modifying.piece import Tokens, step
from everlearn.ops.self_modifying.rule import MAIN, Readouts, SelfModifyingRule, Weights


def scan(
    tokens: Tokens,
    readouts: Readouts,
    weights: Weights,
    boundary: Weights,
    momentum: Weights,
    anchor: Weights | None,
    pieces: Sequence[Piece],
    rule: SelfModifyingRule,
) -> tuple[Tensor, Weights, Weights, Weights]:
    """Run piece after piece; arguments are those of `piece.step`, over a whole grid.

    Returns:
        y: [G, L, D].
        weights: after the last token.
        boundary: of each memory's last chunk.
        momentum: after the last token.
    """
    y = []
    for piece in pieces:
        part = tokens.piece(piece.start, piece.stop)
        read, weights, momentum = step(part, readouts, weights, boundary, momentum, anchor, rule)
        y.append(read)
        boundary = renew(boundary, weights, piece)
    return torch.cat(y, 1), weights, boundary, momentum


def renew(boundary: Weights, weights: Weights, piece: Piece) -> Weights:
    """Return the boundary after a piece: the weights by now, for the memories and groups whose chunk ends."""
    if piece.main_ends is True and piece.others_end is True:
        return weights
    if piece.main_ends is False and piece.others_end is False:
        return boundary
    ends = ending(piece, weights[0])
    return tuple(torch.where(ends, w, b) for w, b in zip(weights, boundary, strict=True))


def ending(piece: Piece, like: Tensor) -> Tensor:
    """Return which memories of which groups end a chunk, [G or 1, M, 1, 1] bool."""
    main, others = (
        torch.as_tensor(flag, device=like.device).reshape(-1, 1) for flag in (piece.main_ends, piece.others_end)
    )
    is_main = torch.arange(like.shape[1], device=like.device) == MAIN
    return torch.where(is_main, main, others)[:, :, None, None]
