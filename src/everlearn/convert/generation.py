"""Generate with what a state has learned and what it has just read, by Hugging Face's own `generate`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from everlearn.convert.cache import Sight, to_cache
from everlearn.convert.in_place import MemoryCache
from everlearn.memory.state import Tensors


def generation_inputs(
    sight: Sight,
    context: Tensors,
    cache: MemoryCache,
    read: Tensor,
    ids: Tensor,
    mask: Tensor | None,
    config: Any,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Return the arguments of `generate` that make it go on after a context.

    Args:
        sight: what the model's tokens see.
        context: keys and values, as `cache.from_cache` left them; empty after nothing.
        cache: with the states of the memories in places; filled with the context.
        read: tokens of the segment so far, [B].
        ids: the prompt, [B, T].
        mask: [B, T] bool, padding on the left only, as generation asks for; None means none.
        config: the model's `generation_config`.
        options: the other arguments of `generate`.
    Raises:
        ValueError: no prompt, padding that is not on the left, or positions beyond those that the model has learned.
    """
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
    if not ids.shape[1] or not bool(real[:, -1].all()) or bool((real[:, :-1] & ~real[:, 1:]).any()):
        raise ValueError(
            f"the prompt of shape {tuple(ids.shape)} is empty or does not end with real tokens in every row; give at "
            "least one token a row, and put padding on the left"
        )
    slots = read[:, None] + real.cumsum(1)
    given = options.get("generation_config") or config

    def option(name: str) -> Any:
        return options.get(name, getattr(given, name, None))

    new = option("max_new_tokens") or 20  # what `generate` takes when nothing is said
    if sight.block is not None and int((read % sight.block).amax()) + ids.shape[1] + new > sight.block:
        raise ValueError(
            f"{ids.shape[1]} tokens and {new} new ones do not fit behind the {int(read.amax())} that were read: the "
            f"model has learned {sight.block} positions; start from state.new_segment(), or ask for fewer tokens"
        )
    to_cache(context, cache)
    carries = bool(context or cache.states)
    repeats = max(option("num_beams") or 1, option("num_return_sequences") or 1)
    if carries and repeats > 1:
        cache.batch_repeat_interleave(repeats)
    seen = torch.cat([context["slots"] > 0, real], 1) if context else real
    return {
        "input_ids": ids,
        "attention_mask": seen.long(),
        "position_ids": sight.position_ids(slots),
        **({"past_key_values": cache} if carries else {}),
        # the config of a hybrid says no: its base alone carries nothing
        **({"use_cache": True} if cache.states else {}),
        **options,
    }
