"""A pretrained model with slots as a way of reading: nothing steps, every token is kept under what came before it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from everlearn.evals.windows import Window, score
from everlearn.learn.chunk import token_nll
from everlearn.memory.slots import SlotMemory

Keyed = Callable[[Tensor], tuple[Tensor, Tensor]]


class SlotsWay:
    """Read with frozen weights and write (inner representation, next token) into slots.

    Args:
        keyed: ids [B, T] -> (inner representations [B, T, D], logits [B, T, V]) of the model.
        slots: how they are looked up and bounded.
        dim: D.
        window: what each target sees; the targets of a chunk are written after it was scored.
    """

    def __init__(self, keyed: Keyed, slots: SlotMemory, dim: int, window: Window) -> None:
        self.keyed, self.slots, self.window = keyed, slots, window
        self.state = slots.initial_state(1, dim)
        self.documents = 0

    def read(self, ids: Tensor) -> Tensor:
        """Read one document, writing."""
        nll = torch.empty(len(ids) - 1, dtype=torch.float64)
        with torch.no_grad():
            for first, start, end in self.window.spans(len(ids)):
                keys, logits = (part[:, start - first :] for part in self._asked(ids[None, first:end]))
                targets = ids[None, start + 1 : end + 1]
                nll[start:end] = token_nll(self.slots.read(self.state, keys, logits), targets)[0].double()
                surprise = token_nll(logits, targets)
                self.state = self.slots.write(self.state, keys, targets, surprise, self.documents)
        self.documents += 1
        return nll

    def end_document(self) -> None:
        """Do nothing: slots stay."""

    def score(self, ids: Tensor) -> Tensor:
        """Score a text without writing."""
        return score(self.logits, ids, self.window)

    def logits(self, ids: Tensor) -> Tensor:
        """Return the logits of the mixture."""
        keys, logits = self._asked(ids)
        return self.slots.read(self.state.rows([0] * len(ids)), keys, logits)

    def _asked(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys of what stands in a window, which the window's first tokens begin, and the logits."""
        hidden, logits = self.keyed(ids)
        return self.slots.keys(hidden, None)[0], logits

    def state_bytes(self) -> int:
        """Return the bytes of the slots; their tokens are the text that was read."""
        return self.state.nbytes()
