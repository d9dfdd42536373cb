"""A state for every document, and the one that fits best for every chunk: nothing is ever overwritten."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from everlearn.evals.stacked_way import Stacked, StackedWay
from everlearn.evals.windows import Window
from everlearn.memory.state import ModelState

Pack = Callable[[ModelState], ModelState]


class ArchiveWay:
    """Read every document from the pretrained model on, and keep what it taught as a state of its own.

    A chunk of a text that is scored is read with the state, or the pretrained model, that cost least on the chunk
    before it; the first chunk, and every tie, goes to the pretrained model. Every candidate scores the whole text, so
    the cost grows with the number of states.

    Args:
        model: as `convert.stack_levels` returns it; what its levels learn is archived at the end of a document.
        window: what each target of `score` sees; its chunks are what is routed.
        pack: what is kept of a state, such as one that is compressed and unpacked again.
        packed_bytes: bytes that one packed state takes on the disk; None counts its levels' weights.
    """

    def __init__(
        self, model: Stacked, window: Window, *, pack: Pack = lambda state: state, packed_bytes: int | None = None
    ) -> None:
        self.reader, self.pack, self.packed_bytes = StackedWay(model, window), pack, packed_bytes
        self.archived: list[ModelState] = []
        self.routes: list[int] = []

    def read(self, ids: Tensor) -> Tensor:
        """Read one document, learning from the pretrained model on."""
        self.reader.state = self.reader.model.initial_state(1)
        return self.reader.read(ids)

    def end_document(self) -> None:
        """Archive what the document taught."""
        self.archived.append(self.pack(self.reader.state))
        self.reader.state = self.reader.model.initial_state(1)

    def score(self, ids: Tensor) -> Tensor:
        """Score a text, each chunk by the candidate that cost least on the one before; `routes` says which."""
        costs = torch.stack([self._cost(ids, state) for state in (None, *self.archived)])
        chunks = costs.split(self.reader.window.chunk_size, dim=1)
        self.routes = [0, *(int(chunk.sum(1).argmin()) for chunk in chunks[:-1])]
        return torch.cat([chunk[route] for chunk, route in zip(chunks, self.routes, strict=True)])

    def logits(self, ids: Tensor) -> Tensor:
        """Return the logits of the open document's state, or of the pretrained model where none is open."""
        return self.reader.logits(ids)

    def state_bytes(self) -> int:
        """Return the bytes of everything that is archived."""
        if self.packed_bytes is not None:
            return self.packed_bytes * len(self.archived)
        return sum(self._with(state).state_bytes() for state in self.archived)

    def _cost(self, ids: Tensor, state: ModelState | None) -> Tensor:
        return self._with(state or self.reader.model.initial_state(1)).score(ids)

    def _with(self, state: ModelState) -> StackedWay:
        """Return a reader with that state."""
        way = StackedWay(self.reader.model, self.reader.window)
        way.state = state
        return way
