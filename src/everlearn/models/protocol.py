"""What a learner needs of a model of text; a decoder of bytes and any stacked model have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from everlearn.layers.level_step import Update
from everlearn.layers.leveled import LeveledMemory
from everlearn.memory.state import ModelState


class TextModel(Protocol):
    """A causal language model whose state is a value, with the alphabet that its tokens stand for."""

    @property
    def chunk_size(self) -> int:
        """Return how many tokens share one gradient anchor."""
        ...

    @property
    def device(self) -> torch.device:
        """Return where the parameters are, and where ids have to be."""
        ...

    @property
    def start_ids(self) -> tuple[int, ...]:
        """Return the tokens that open a text, such as a begin-of-text token; empty where a text just begins."""
        ...

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Return the tokens after which nothing more is generated; empty where a text has no end of its own."""
        ...

    def __call__(self, ids: Tensor, state: ModelState, mask: Tensor | None = None) -> tuple[Tensor, ModelState]:
        """Return logits, [B, T, V], and the state after the tokens; nothing is learned."""
        ...

    def initial_state(self, batch_size: int) -> ModelState:
        """Return what fresh streams start from."""
        ...

    def memories(self) -> Mapping[str, LeveledMemory]:
        """Return the memories that learn, by the name of their layer."""
        ...

    def tick(
        self, state: ModelState, event: str, rows: Tensor | None = None
    ) -> tuple[ModelState, dict[str, dict[str, Update]]]:
        """Declare an event: levels that wait for it step or restart."""
        ...

    def fingerprint(self) -> str:
        """Return a hash of all that decides whether a state belongs to this model."""
        ...

    def encode(self, text: str | bytes) -> Tensor:
        """Return the tokens of a text without `start_ids`, [T] int64 on the CPU.

        Raises:
            ValueError: not a text, or one that the model's tokens cannot hold.
        """
        ...

    def decode(self, ids: Tensor) -> str:
        """Return the text of tokens, [T]."""
        ...

    def count_bytes(self, ids: Tensor) -> Tensor:
        """Return how many bytes of UTF-8 each token stands for, [T] int64; 0 for one that is no text.

        Over the tokens of a text they add up to its length, so that bits per byte means the same for every alphabet.
        """
        ...

    def eval(self) -> object:
        """Switch off what only training uses."""
        ...


@runtime_checkable
class Readable(Protocol):
    """A model in another form, such as Hugging Face's, that says what its text is read with."""

    def reader(self) -> TextModel:
        """Return the model as a learner takes it; the parameters are shared."""
        ...
