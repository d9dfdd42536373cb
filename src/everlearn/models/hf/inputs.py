"""What a Hugging Face model is called with, checked and put into the words of `Decoder`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from everlearn.models.decoder import Decoder
from everlearn.models.hf.cache import MemoryCache


def check_ids(ids: Tensor, vocab_size: int) -> None:
    """Refuse token numbers that cannot be read: before any layer, and on every device.

    Args:
        ids: should be [B, T] of whole numbers, T >= 1.
        vocab_size: above each of them.
    Raises:
        ValueError: they are not.
    """
    if ids.ndim != 2 or ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"input_ids are {ids.dtype} of shape {tuple(ids.shape)}; give token numbers [B, T] as long")
    if not ids.numel():
        raise ValueError(f"input_ids of shape {tuple(ids.shape)} hold no token; give at least one in each row")
    low, high = (int(n) for n in torch.aminmax(ids))
    if low < 0 or high >= vocab_size:
        raise ValueError(
            f"input_ids reach from {low} to {high}, the vocabulary from 0 to {vocab_size - 1}; "
            "encode with the tokenizer of this model"
        )


def continued(cache: Any, model: Decoder, ids: Tensor) -> MemoryCache | None:
    """Return the cache that is to be read on with, or None.

    Raises:
        ValueError: a cache of another kind, of another model, or with another number of rows than `ids`.
    """
    if cache is None:
        return None
    if not isinstance(cache, MemoryCache):
        raise ValueError(
            f"past_key_values is a {type(cache).__name__}, which has no place for a memory; give model.new_cache(), "
            "or leave it out"
        )
    cache.check(model, len(ids))
    return cache


def mask_of(attention_mask: Tensor | None, ids: Tensor) -> Tensor | None:
    """Return which of the new tokens are real, [B, T] bool, or None where all are.

    Args:
        attention_mask: [B, T], or longer where it covers earlier tokens too; its end is that of `ids`.
        ids: [B, T].
    Raises:
        ValueError: a mask of another shape.
    """
    if attention_mask is None:
        return None
    shape, (rows, length) = tuple(attention_mask.shape), ids.shape
    if len(shape) != 2 or shape[0] != rows or shape[1] < length:
        raise ValueError(
            f"attention_mask has shape {shape}, input_ids {tuple(ids.shape)}; give one number for each token, 1 where "
            "it is real, in two dimensions"
        )
    mask = attention_mask[:, -length:].to(ids.device).bool()
    return None if bool(mask.all()) else mask


def documents_of(
    position_ids: Tensor | None, seq_idx: Tensor | None, ids: Tensor, mask: Tensor | None, others: Mapping[str, Any]
) -> Tensor | None:
    """Return the number of its document for each token of packed rows, [B, T], or None where nothing is packed.

    Args:
        position_ids: [B, T] or [1, T]; a document begins where a real token has position 0 and is not the row's first.
        seq_idx: [B, T], the numbers themselves.
        ids: [B, T].
        mask: [B, T] bool, or None.
        others: the other arguments of the call.
    Raises:
        ValueError: another shape, positions that jump, or packing that is told in no way that is understood here.
    """
    for name, given in (("position_ids", position_ids), ("seq_idx", seq_idx)):
        if given is not None and (given.ndim != 2 or len(given) not in (1, len(ids)) or given.shape[1] != ids.shape[1]):
            raise ValueError(
                f"{name} have shape {tuple(given.shape)}, input_ids {tuple(ids.shape)}; give one number for each token"
            )
    if seq_idx is not None:
        documents = seq_idx.expand_as(ids)
        return documents if bool((documents != documents[:, :1]).any()) else None
    if position_ids is None:
        if others.get("cu_seq_lens_q") is not None:
            raise ValueError(
                "cu_seq_lens_q says that rows are packed, but without position_ids; let the collator return "
                "position_ids or seq_idx too, so that a document does not read with the memory of another"
            )
        return None
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
    order = torch.argsort(~real, dim=1, stable=True)
    positions, follows = position_ids.expand_as(ids).gather(1, order), real.gather(1, order)[:, 1:]
    begins = follows & (positions[:, 1:] == 0)
    jumps = follows & ~begins & (positions[:, 1:] != positions[:, :-1] + 1)
    if bool(jumps.any()):
        row, column = jumps.nonzero()[0].tolist()
        raise ValueError(
            f"position_ids go from {int(positions[row, column])} to {int(positions[row, column + 1])} in row {row}, "
            "but this model counts tokens itself; count up by 1, begin again at 0 for a new document, or leave them out"
        )
    if not bool(begins.any()):
        return None
    numbers = torch.nn.functional.pad(begins.long().cumsum(1), (1, 0))
    return numbers.gather(1, torch.argsort(order, dim=1))


def check_labels(labels: Tensor, ids: Tensor, logits_to_keep: int | Tensor) -> None:
    """Refuse labels that would be scored against other places, or that hold no target.

    Raises:
        ValueError: they do.
    """
    if labels.shape != ids.shape:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}, input_ids {tuple(ids.shape)}; give input_ids themselves, with "
            "-100 where nothing is to be learned"
        )
    if ids.shape[1] < 2:
        raise ValueError("labels of 1 token hold no target, since nothing predicts the first; give at least 2 tokens")
    if isinstance(logits_to_keep, Tensor) or logits_to_keep:
        raise ValueError("labels need the logits of every place, but logits_to_keep leaves some out; give one of both")


def repeats_of(config: Any, options: Mapping[str, Any]) -> int:
    """Return how many rows `generate` makes of each prompt."""
    given = [options.get(name, vars(config).get(name)) for name in ("num_beams", "num_return_sequences")]
    return max(number or 1 for number in given)
