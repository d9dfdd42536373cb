"""Keys and values of a Hugging Face model as part of a state, rows first, and what a token may see of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from everlearn.memory.state import Tensors


@dataclass(frozen=True)
class Sight:
    """What a token sees of the earlier tokens of its row.

    Args:
        window: tokens that a token sees, itself included; the cache holds no more.
        block: positions start again, and earlier tokens are out of sight, after so many tokens: for models that learned
            one vector per position. None lets positions grow, for models that only see distances.
        local: window of the model's sliding layers, or None.
        layer_types: kinds of layers that the model tells apart, each with a mask of its own; empty for one mask.
        boolean: the attention takes masks of bool, else of numbers to add.
    """

    window: int
    block: int | None = None
    local: int | None = None
    layer_types: tuple[str, ...] = ()
    boolean: bool = True

    def position_ids(self, slots: Tensor) -> Tensor:
        """Return the positions that the model is told, from the slots of the tokens (positions counted from 1)."""
        positions = (slots - 1).clamp_min(0)
        return positions if self.block is None else positions % self.block

    def masks(self, queries: Tensor, keys: Tensor, dtype: torch.dtype) -> Any:
        """Return which keys each token sees, as the model takes it.

        Args:
            queries: slots of the new tokens, [B, T]; padding has that of the last real token.
            keys: slots of the stored and the new tokens, [B, S + T]; 0 is empty.
            dtype: of the model's activations.
        """
        if not self.layer_types:
            return self._mask(queries, keys, min(self.window, self.local or self.window), dtype)
        windows = {kind: self.local if "sliding" in kind else None for kind in self.layer_types}
        return {
            kind: self._mask(queries, keys, min(self.window, own or self.window), dtype)
            for kind, own in windows.items()
        }

    def keep(self, slots: Tensor, count: Tensor) -> Tensor:
        """Tell which stored slots, [B, S], some token after the first `count`, [B], can still see."""
        kept = (slots > 0) & (slots > (count + 1 - self.reach)[:, None])
        if self.block is not None:
            kept = kept & ((slots - 1) // self.block == (count // self.block)[:, None])
        return kept

    @property
    def reach(self) -> int:
        """Return how many tokens the widest layer sees."""
        if self.layer_types and not all("sliding" in kind for kind in self.layer_types):
            return self.window
        return min(self.window, self.local or self.window)

    @property
    def shortest(self) -> int:
        """Return how many tokens can be read at once without any of them leaving another's sight."""
        return min(n for n in (self.window, self.block, self.local) if n is not None)

    def _mask(self, queries: Tensor, keys: Tensor, window: int, dtype: torch.dtype) -> Tensor:
        """Return one mask, [B, 1, T, S + T]."""
        distance = queries.unsqueeze(2) - keys.unsqueeze(1)
        seen = (keys > 0).unsqueeze(1) & (distance >= 0) & (distance < window)
        if self.block is not None:
            seen = seen & ((queries - 1).unsqueeze(2) // self.block == (keys - 1).unsqueeze(1) // self.block)
        # a padded token sees itself: a softmax over nothing is not finite
        length, size = queries.shape[1], keys.shape[1]
        own = torch.eye(length, size, dtype=torch.bool, device=keys.device).roll(size - length, 1)
        seen = (seen | own).unsqueeze(1)
        if self.boolean and (
            dtype not in (torch.float32, torch.float64) or torch.is_autocast_enabled(keys.device.type)
        ):
            return seen
        # what is added to the scores; every layer would make the same of the truth values
        least = float("-inf") if self.boolean else torch.finfo(dtype).min
        return torch.zeros(seen.shape, dtype=dtype, device=keys.device).masked_fill(~seen, least)


def sight_of(model: nn.Module, window: int | None) -> Sight:
    """Return what a Hugging Face model's tokens see.

    Args:
        model: with a `config`.
        window: bound on it, >= 1; None takes the length that the model was trained for.
    Raises:
        ValueError: a window below 1 or beyond that length; an attention that takes no mask or adds a bias of its own.
    """
    config: Any = model.config
    config = config.get_text_config()
    name = type(model).__name__
    if getattr(config, "alibi", False):
        raise ValueError(
            f"{name} marks distances by ALiBi, which counts padding too; choose a checkpoint with rotary embedding"
        )
    if config._attn_implementation not in ("sdpa", "eager"):
        raise ValueError(
            f"{name} uses the attention {config._attn_implementation!r}, which takes no mask per row; allowed are "
            "'sdpa' and 'eager'; load it with attn_implementation='sdpa'"
        )
    longest = getattr(config, "max_position_embeddings", None)
    if window is not None and not 1 <= window <= (longest or window):
        raise ValueError(f"window {window} is not within 1 to {longest}, the length {name} was trained for; choose one")
    if (length := window or longest) is None:
        raise ValueError(f"{name} does not say how many tokens it was trained for; give window=, such as 1024")
    rotary = any("rotary" in path.rpartition(".")[2] for path, _ in model.named_modules())
    types = tuple(dict.fromkeys(getattr(config, "layer_types", None) or ()))
    sliding = any("sliding" in kind for kind in types) or not types
    return Sight(
        window=length,
        block=None if rotary else longest,
        local=getattr(config, "sliding_window", None) if sliding else None,
        layer_types=types if any("sliding" in kind for kind in types) else (),
        boolean=config._attn_implementation == "sdpa",
    )


def to_cache(context: Tensors, cache: DynamicCache) -> None:
    """Put what a state holds into a cache that a Hugging Face model takes."""
    for i in range(sum(name.startswith("k.") for name in context)):
        cache.update(context[f"k.{i}"].transpose(1, 2), context[f"v.{i}"].transpose(1, 2), i)


def from_cache(cache: DynamicCache, slots: Tensor, keep: Tensor) -> Tensors:
    """Return what a state holds of a cache: "k.0", "v.0", ... [B, S, H, D] and "slots" [B, S], where 0 is empty.

    Args:
        cache: after the model has read.
        slots: of everything in the cache, [B, S].
        keep: which of it to keep, [B, S]; kept slots move to the left.
    """
    stored: Tensors = {}
    layers: Sequence[Any] = cache.layers
    for i, layer in enumerate(layers):
        stored |= {f"k.{i}": layer.keys.transpose(1, 2), f"v.{i}": layer.values.transpose(1, 2)}
    size = max(int(keep.sum(1).amax()), 1)
    if bool(keep[:, -size:].all()):
        return {name: t[:, -size:] for name, t in stored.items()} | {"slots": slots[:, -size:]}
    order = (~keep).to(torch.uint8).argsort(dim=1, stable=True)[:, :size]
    kept = keep.gather(1, order)
    rows = torch.arange(len(order), device=order.device)[:, None]
    # what is empty is zero, so that the bits of a row do not depend on another row's length
    stored = {name: t[rows, order] * kept[:, :, None, None] for name, t in stored.items()}
    return {**stored, "slots": slots.gather(1, order) * kept}
