"""Padding and packing, taken out before the layers see them: one home for both."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from everlearn.memory.state import ModelState

Run = Callable[[Tensor, ModelState, Tensor | None], tuple[Tensor, ModelState]]
FreshRun = Callable[[Tensor, None, Tensor], tuple[Tensor, ModelState]]  # it starts every row anew


def check_tokens(ids: Tensor, mask: Tensor | None, state: ModelState | None) -> None:
    """Refuse tokens, a mask or a state that would be read as something else.

    Args:
        ids: should be [B, T] of whole numbers, B >= 1; where T is 0, nothing is read.
        mask: should be [B, T] bool, or None.
        state: should have B rows, or be None.
    Raises:
        ValueError: they do not.
    """
    if ids.ndim != 2 or ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"ids are {ids.dtype} of shape {tuple(ids.shape)}; give token numbers [B, T] as torch.long")
    if not len(ids):
        raise ValueError(f"ids of shape {tuple(ids.shape)} hold no row; give at least one")
    if mask is not None and (mask.dtype != torch.bool or mask.shape != ids.shape):
        raise ValueError(
            f"mask is {mask.dtype} of shape {tuple(mask.shape)}, but must be bool of shape {tuple(ids.shape)}; "
            "pass True where a token is real"
        )
    if state is not None and state.batch_size != len(ids):
        raise ValueError(
            f"the state has {state.batch_size} rows, ids have {len(ids)}; "
            f"pick rows with state.rows(...) or start from model.initial_state({len(ids)})"
        )


def without_padding(run: Run, ids: Tensor, state: ModelState, mask: Tensor) -> tuple[Tensor, ModelState]:
    """Call `run` on rows whose real tokens stand at the left, and put its outputs back in their places.

    Left, right and interior padding then change nothing: the layers below only ever meet right padding.

    Args:
        run: `(ids, state, mask) -> (y, state)` for left-aligned rows.
        ids: [B, T].
        state: passed on.
        mask: [B, T] bool, True for real tokens.
    Returns:
        y: [B, T, ...] in the places of `ids`; zero at padding.
        state: as `run` left it.
    """
    order = torch.argsort(~mask, dim=1, stable=True)
    y, state = run(ids.gather(1, order), state, mask.gather(1, order))
    place = torch.argsort(order, dim=1)
    shape = (-1, -1, *[1] * (y.ndim - 2))
    y = y.gather(1, place.reshape(*place.shape, *[1] * (y.ndim - 2)).expand(-1, -1, *y.shape[2:]))
    return y * mask.reshape(*mask.shape, *[1] * (y.ndim - 2)).expand(*shape), state


def without_packing(
    run: FreshRun, ids: Tensor, state: ModelState | None, mask: Tensor | None, document_ids: Tensor
) -> tuple[Tensor, ModelState]:
    """Give every packed document a row of its own, and put the outputs back where its tokens stood.

    Args:
        run: `(ids, state, mask) -> (y, state)`, which takes None for a fresh state.
        ids: [B, T].
        state: must be None, since packed rows start fresh.
        mask: [B, T] bool, True for real tokens; None means that all are.
        document_ids: [B, T]; see `unpack`.
    Returns:
        y: [B, T, ...] in the places of `ids`; zero at padding.
        state: that of each row's last document.
    Raises:
        ValueError: a state, or `document_ids` of another shape.
    """
    if state is not None:
        raise ValueError(
            "packed rows start fresh, but a state was given; read the rest of an open document first, "
            "without document_ids, then pass state=None"
        )
    if document_ids.shape != ids.shape:
        raise ValueError(
            f"document_ids have shape {tuple(document_ids.shape)}, ids {tuple(ids.shape)}; "
            "give the number of its document for each token"
        )
    mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
    source, real, last = unpack(document_ids, mask)
    y, after = run(ids.flatten()[source], None, real)
    packed = y.new_zeros(ids.numel(), *y.shape[2:]).index_put((source[real],), y[real])
    return packed.reshape(*ids.shape, *y.shape[2:]), after.rows(last)


def unpack(document_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Say where each packed document stands, so that every document can have a row of its own.

    Args:
        document_ids: [B, T]; a new document begins wherever the number changes from one real token to the next.
        mask: [B, T] bool, True for real tokens.
    Returns:
        source: [N, L] position in the flattened [B * T] of each token of each document, 0 at padding.
        real: [N, L] bool.
        last: [B] which document ends each row.
    """
    documents: list[Tensor] = []
    last = []
    for row in range(document_ids.shape[0]):
        places = mask[row].nonzero().flatten()
        numbers = document_ids[row, places]
        cuts = (numbers[1:] != numbers[:-1]).nonzero().flatten() + 1
        documents.extend(torch.tensor_split(places + row * document_ids.shape[1], cuts.tolist()))
        last.append(len(documents) - 1)
    length = max(len(d) for d in documents)
    source = torch.stack([torch.nn.functional.pad(d, (0, length - len(d))) for d in documents])
    counts = torch.tensor([len(d) for d in documents], device=mask.device)
    real = torch.arange(length, device=mask.device) < counts[:, None]
    return source, real, torch.tensor(last, device=mask.device)
