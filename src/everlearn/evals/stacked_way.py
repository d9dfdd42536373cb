"""A stacked model as a way of reading: the code that users run, scored like every baseline."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor, nn

from everlearn.evals.windows import Window, hf_logits, score
from everlearn.learn import read
from everlearn.learn.chunk import LearningModel
from everlearn.memory.state import ModelState


class Stacked(LearningModel, Protocol):
    """What is needed of a stacked model."""

    base: nn.Module

    @property
    def chunk_size(self) -> int:
        """Return how many tokens share one gradient anchor."""
        ...

    def initial_state(self, batch_size: int) -> ModelState:
        """Return what fresh streams start from."""
        ...

    def tick(self, state: ModelState, event: str, rows: Tensor | None = None) -> tuple[ModelState, Any]:
        """Declare an event."""
        ...

    def using(self, state: ModelState) -> AbstractContextManager[None]:
        """Let `base(...)` read with what a state has learned."""
        ...


class StackedWay:
    """Read with levels on a pretrained model; keys and values are carried and stale while it reads.

    Args:
        model: as `convert.stack_levels` returns it; its state is kept here, the model is left as it is.
        window: what each target of `score` sees.
        learn: False reads without learning: the frozen model with carried keys and values.
    """

    def __init__(self, model: Stacked, window: Window, *, learn: bool = True) -> None:
        self.model, self.window, self.learn = model, window, learn
        self.state = model.initial_state(1)

    def read(self, ids: Tensor) -> Tensor:
        """Read and learn, chunk by chunk."""
        report, self.state = read(
            self.model, ids[None], self.state, chunk_size=self.model.chunk_size, learn=self.learn, end="flush"
        )
        return report.nll[0, 1:]

    def end_document(self) -> None:
        """Declare the event "document": levels that reset at it restart."""
        self.state, _ = self.model.tick(self.state, "document")

    def score(self, ids: Tensor) -> Tensor:
        """Score a text with what has been learned."""
        return score(self.logits, ids, self.window)

    def logits(self, ids: Tensor) -> Tensor:
        """Return the logits of the model with what has been learned."""
        with self.model.using(self.state):
            return hf_logits(self.model.base, ids)

    def state_bytes(self) -> int:
        """Return the bytes of the levels' weights, without collected gradients and clocks."""
        return sum(
            tensor.numel() * tensor.element_size()
            for layer in self.state.memory.values()
            for name, tensor in layer.items()
            if not name.endswith((".grad", ".tokens"))
        )
