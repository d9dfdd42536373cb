"""What every pretrained decoder with a state shares: tokens, reading with a state that is a value, generation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from everlearn.convert.cache import Sight, from_cache, to_cache
from everlearn.convert.generation import generation_inputs
from everlearn.convert.in_place import MemoryCache, places
from everlearn.layers import DeltaMemory
from everlearn.layers.level_step import Update
from everlearn.layers.leveled import LeveledMemory
from everlearn.memory.state import LayerState, ModelState, with_layers
from everlearn.models import tokenizer as text_
from everlearn.models.rows import check_tokens, without_padding

CACHE = "cache"  # the context that holds keys and values


class Pretrained(nn.Module, ABC):
    """A decoder of Hugging Face and its tokenizer; abstract: what is learned beside it, and how, is for the heirs.

    What a stream has left is a value, `ModelState`: keys and values in `context["cache"]`; of a memory that stands in
    the place of an attention or an MLP, its weights in `memory["block.N.attention"]` or `memory["block.N.mlp"]` and its
    convolution in the context of the same name.

    Args:
        base: the Hugging Face model.
        tokenizer: that of the model, or None where only token numbers are read.
        sight: what a token sees of earlier ones.
    """

    def __init__(self, base: nn.Module, tokenizer: Any, sight: Sight) -> None:
        super().__init__()
        self.base, self.tokenizer, self.sight = base, tokenizer, sight
        self._places = places(base)

    @abstractmethod
    def memories(self) -> Mapping[str, LeveledMemory]:
        """Return the memories that learn from the task's gradient while the model reads, by their name in a state."""

    @abstractmethod
    def _reading(self, state: ModelState) -> AbstractContextManager[None]:
        """Return a context inside which the base reads with what the state has learned beside its places."""

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
        """Return the tokens of a text, [T] int64; see `tokenizer.encode`."""
        return text_.encode(self.tokenizer, text)

    def decode(self, ids: Tensor) -> str:
        """Return the text of tokens, [T]."""
        return text_.decode(self.tokenizer, ids)

    def count_bytes(self, ids: Tensor) -> Tensor:
        """Return how many bytes each token stands for, [T] int64; see `tokenizer.count_bytes`."""
        return text_.count_bytes(self.tokenizer, ids)

    def initial_state(self, batch_size: int) -> ModelState:
        """Return what `batch_size` fresh streams start from: nothing read, and nothing learned beside the weights."""
        zeros = torch.zeros(batch_size, dtype=torch.long, device=self.device)
        holders: dict[str, DeltaMemory | LeveledMemory] = {**self._recurrent(), **self.memories()}
        fresh = {name: memory.initial_state(batch_size) for name, memory in holders.items()}
        return with_layers(ModelState({}, {}, zeros, zeros), fresh)

    def forward(
        self, ids: Tensor, state: ModelState | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, ModelState]:
        """Read tokens with what the state has learned; nothing is learned.

        A full pass, any split of it and token by token give the same results.

        Args:
            ids: [B, T].
            state: what earlier tokens left; None starts fresh streams.
            mask: [B, T] bool, True for real tokens; padding may stand left, right or inside and changes nothing.
        Returns:
            logits: [B, T, vocab_size] for the token after each; 0 at padding.
            state: to pass to the next call; its keys and values count those of these tokens.
        Raises:
            ValueError: tokens that the vocabulary lacks; shapes or types that do not fit; a state of another model.
        """
        state = self._checked(ids, state, mask)
        with self._reading(state):
            if mask is None or bool(mask.all()):
                return self._read(ids, state, None)
            return without_padding(self._read, ids, state, mask)

    def generate(
        self, ids: Tensor, state: ModelState | None = None, mask: Tensor | None = None, **options: Any
    ) -> Tensor:
        """Continue prompts by the model's own `generate`; nothing is learned, and no state changes.

        What a state has read in its open segment stands before the prompt. `generate` makes its own masks: new tokens
        are seen beyond `window`, and a model with sliding layers counts the empty places of a shorter row as tokens.
        Where that matters, call the model token by token.

        Args:
            ids: [B, T].
            state: what the streams have learned and read; None uses the model as it is.
            mask: [B, T] bool, padding on the left only; none at all where a delta memory mixes tokens.
            options: passed on, such as max_new_tokens, do_sample, num_beams, streamer.
        Returns:
            [B, T + new], or more rows when several sequences are asked for.
        Raises:
            ValueError: see `forward`; no prompt, more positions than the model has learned, or padding or
                use_cache=False where a delta memory mixes tokens.
        """
        state = self._checked(ids, state, mask)
        self._check_generation(mask, options)
        base: Any = self.base
        with self._reading(state), torch.no_grad():
            inputs = generation_inputs(
                self.sight,
                state.layer(CACHE).context,
                MemoryCache(self._states(state), None),
                state.segment_len,
                ids,
                mask,
                base.generation_config,
                options,
            )
            return base.generate(**inputs)

    def tick(
        self, state: ModelState, event: str, rows: Tensor | None = None
    ) -> tuple[ModelState, dict[str, dict[str, Update]]]:
        """Declare an event such as "document" or "session": levels that wait for it step or restart.

        At the end of a document delta memories are emptied.

        Args:
            state: what the streams have taught.
            event: a word that some level names; any other changes nothing.
            rows: [B] bool, the rows that it concerns; None means all.
        Returns:
            state: the new state.
            updates: name of a memory -> level name -> what it did.
        Raises:
            ValueError: rows that are not [B] bool.
        """
        if rows is not None and (rows.dtype != torch.bool or rows.shape != state.tokens_seen.shape):
            raise ValueError(
                f"rows are {rows.dtype} of shape {tuple(rows.shape)}; give bool of shape ({state.batch_size},), "
                "True where the event happened"
            )
        layers = {name: memory.tick(state.layer(name), event, rows) for name, memory in self._recurrent().items()}
        updates: dict[str, dict[str, Update]] = {}
        for name, memory in self.memories().items():
            if name in state.memory:
                layers[name], done = memory.tick(state.layer(name), event, rows)
                updates |= {name: done} if done else {}
        return with_layers(state, layers), updates

    def _checked(self, ids: Tensor, state: ModelState | None, mask: Tensor | None) -> ModelState:
        """Refuse what would be read as something else; return the state, or an empty one for None."""
        check_tokens(ids, mask, state)
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocab_size:
            raise ValueError(
                f"ids reach from {int(ids.min())} to {int(ids.max())}, the vocabulary from 0 to {self.vocab_size - 1}; "
                "encode with the tokenizer of this model"
            )
        zeros = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
        state = state or ModelState({}, {}, zeros, zeros)
        self._check_memories(state)
        return state

    def _check_memories(self, state: ModelState) -> None:
        """Refuse a state that another model has written."""
        if unknown := sorted(set(state.memory) - {*self._places, *self.memories()}):
            raise ValueError(
                f"the state is another model's: it holds a memory {unknown[0]!r} that this model lacks; "
                "read with the model that wrote it, or pass state=None"
            )

    def _check_generation(self, mask: Tensor | None, options: Mapping[str, Any]) -> None:
        """Refuse what would let a delta memory read padding, or the same tokens twice."""
        if not self._recurrent():
            return
        if mask is not None and not bool(mask.all()):
            raise ValueError(
                "the prompts are padded, which a delta memory would read as text while it generates; give prompts of "
                "one length, or read them first, _, state = model(ids[:, :-1], state, mask[:, :-1]), and generate "
                "from the last tokens"
            )
        if options.get("use_cache") is False:
            raise ValueError(
                "use_cache=False would let a delta memory read all tokens again for each new one; leave it out"
            )

    def _recurrent(self) -> dict[str, DeltaMemory]:
        """Return the memories in places that every token writes, by name."""
        return {name: place.memory for name, place in self._places.items() if isinstance(place.memory, DeltaMemory)}

    def _states(self, state: ModelState) -> dict[str, LayerState]:
        """Return what a state holds of every place."""
        return {name: state.layer(name) for name in self._places}

    def _read(self, ids: Tensor, state: ModelState, mask: Tensor | None) -> tuple[Tensor, ModelState]:
        """Run the model over left-aligned rows, from what the state holds.

        Args:
            ids: [B, T].
            state: before them.
            mask: [B, T] bool, real tokens first; None means all are.
        """
        context = state.layer(CACHE).context
        cache = MemoryCache(self._states(state), mask)
        to_cache(context, cache)
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
        state = replace(
            state,
            context={**state.context, CACHE: kept},
            tokens_seen=state.tokens_seen + count - state.segment_len,
            segment_len=count,
        )
        return logits, with_layers(state, cache.states)

    def _embedding(self) -> nn.Embedding:
        """Return the model's table of tokens."""
        return self.base.get_input_embeddings()  # type: ignore[operator]

    def _dtype(self) -> torch.dtype:
        """Return the dtype of the activations."""
        return self._embedding().weight.dtype
