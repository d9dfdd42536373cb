"""What every pretrained decoder with a state shares: its tokens, and reading with keys and values that are a value."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from everlearn.convert import text as text_
from everlearn.convert.cache import Sight, from_cache
from everlearn.memory.state import ModelState
from everlearn.models.rows import check_tokens

CACHE = "cache"  # the context that holds keys and values


class Pretrained(nn.Module):
    """A decoder of Hugging Face and its tokenizer; abstract: what is learned beside it, and how, is for the heirs.

    Args:
        base: the Hugging Face model.
        tokenizer: that of the model, or None where only token numbers are read.
        sight: what a token sees of earlier ones.
    """

    def __init__(self, base: nn.Module, tokenizer: Any, sight: Sight) -> None:
        super().__init__()
        self.base, self.tokenizer, self.sight = base, tokenizer, sight

    @property
    def device(self) -> torch.device:
        """Return where tokens have to be."""
        return self._embedding().weight.device

    @property
    def vocab_size(self) -> int:
        """Return how many tokens the model knows."""
        return self._embedding().num_embeddings

    @property
    def start_ids(self) -> tuple[int, ...]:
        """Return the tokens that the tokenizer puts before every text."""
        return text_.start_ids(self.tokenizer)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Return the tokens after which nothing more is generated."""
        return text_.stop_ids(self.tokenizer, self.base)

    def encode(self, text: str | bytes) -> Tensor:
        """Return the tokens of a text, [T] int64; see `text.encode`."""
        return text_.encode(self.tokenizer, text)

    def decode(self, ids: Tensor) -> str:
        """Return the text of tokens, [T]."""
        return text_.decode(self.tokenizer, ids)

    def count_bytes(self, ids: Tensor) -> Tensor:
        """Return how many bytes each token stands for, [T] int64; see `text.count_bytes`."""
        return text_.count_bytes(self.tokenizer, ids)

    def _checked(self, ids: Tensor, state: ModelState | None, mask: Tensor | None) -> ModelState:
        """Refuse what would be read as something else; return the state, or an empty one for None."""
        check_tokens(ids, mask, state)
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocab_size:
            raise ValueError(
                f"ids reach from {int(ids.min())} to {int(ids.max())}, the vocabulary from 0 to {self.vocab_size - 1}; "
                "encode with the tokenizer of this model"
            )
        zeros = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
        return state or ModelState({}, {}, zeros, zeros)

    def _run(
        self, ids: Tensor, state: ModelState, mask: Tensor | None, cache: DynamicCache
    ) -> tuple[Tensor, ModelState]:
        """Run the model over left-aligned rows.

        Args:
            ids: [B, T].
            state: before them.
            mask: [B, T] bool, real tokens first; None means all are.
            cache: the keys and values of the state, as `cache.to_cache` puts them; filled further.
        """
        context = state.layer(CACHE).context
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        last = state.segment_len[:, None] + real.cumsum(1)
        count = last[:, -1] if ids.shape[1] else state.segment_len
        new = last.masked_fill(~real, 0)
        slots = torch.cat([context["slots"], new], 1) if context else new
        if not ids.shape[1]:
            logits = torch.zeros(*ids.shape, self.vocab_size, device=ids.device)
        else:
            plain = mask is None and not context and ids.shape[1] <= self.sight.shortest
            logits = self.base(
                input_ids=ids,
                attention_mask=None if plain else self.sight.masks(last.clamp_min(1), slots, self._dtype()),
                position_ids=None if plain else self.sight.position_ids(last),
                past_key_values=cache,
                use_cache=True,
            ).logits
        kept = from_cache(cache, slots, self.sight.keep(slots, count))
        seen = count - state.segment_len
        state = replace(
            state,
            context={**state.context, CACHE: kept},
            tokens_seen=state.tokens_seen + seen,
            segment_len=count,
        )
        return logits, state

    def _embedding(self) -> nn.Embedding:
        """Return the model's table of tokens."""
        return self.base.get_input_embeddings()  # type: ignore[operator]

    def _dtype(self) -> torch.dtype:
        """Return the dtype of the activations."""
        return self._embedding().weight.dtype
