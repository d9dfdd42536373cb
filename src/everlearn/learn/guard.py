"""A bound on the damage: what a document taught is shrunk or taken back when general text reads worse."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from everlearn.layers.leveled import LeveledMemory
from everlearn.learn.stream import read
from everlearn.memory.state import LayerState, ModelState, with_layers
from everlearn.models.protocol import TextModel


@dataclass(frozen=True)
class GuardEvent:
    """What a guard did to one user's memory.

    Args:
        action: "shrunk" toward the learned start, "rolled back" to the memory before the document, or "reset".
        before: bits per byte of the probe by which it was worse than the model as trained, before the repair.
        after: the same, after it.
        allowed: the most that is accepted.
    """

    action: str
    before: float
    after: float
    allowed: float

    def __str__(self) -> str:
        return (
            f"the memory was {self.action}: the general probe read {self.before:+.3f} bits per byte worse than the "
            f"model as trained, {self.allowed:+.3f} is allowed; now {self.after:+.3f}"
        )


class Guard(Protocol):
    """Anything that may replace what a document taught."""

    def __call__(self, before: ModelState, after: ModelState) -> tuple[ModelState, GuardEvent | None]:
        """Return the memory to keep, [1, ...], and what was done to it; None where nothing was.

        Args:
            before: the user's memory before the document was read.
            after: after it, its segment closed.
        """
        ...


class ProbeGuard:
    """Keep a fixed general text about as readable as it was for the model as trained.

    After a document the probe is scored with what now lasts. If it costs more than `max_rise` bits per byte above the
    model as trained, the learned part of every level is shrunk, up to `tries` times; if that is not enough, the memory
    goes back to what it was before the document, or, where that is no better, to the start.

    It sees damage to text like the probe, and to no other. Costs one scoring of the probe for each document, and one
    for each try.

    Args:
        model: the learner's.
        probe: one to two thousand tokens of text that nobody's documents are taken from.
        max_rise: bits per byte that are accepted, >= 0.
        share: of the learned part that one shrinking keeps, in (0, 1).
        tries: how often to shrink before rolling back, >= 0; 0 only rolls back.
    Raises:
        ValueError: a probe of fewer than two tokens, or a number outside its range.
    """

    def __init__(
        self, model: TextModel, probe: str | bytes, *, max_rise: float = 0.05, share: float = 0.5, tries: int = 3
    ) -> None:
        if not (math.isfinite(max_rise) and max_rise >= 0):
            raise ValueError(f"max_rise {max_rise} must be finite and >= 0; try 0.05 bits per byte")
        if not 0 < share < 1 or tries < 0:
            raise ValueError(f"share {share} must lie in (0, 1) and tries {tries} be >= 0; try share=0.5, tries=3")
        self.model, self.max_rise, self.share, self.tries = model, max_rise, share, tries
        text = model.encode(probe)
        if len(text) < 2:
            raise ValueError(f"the probe has {len(text)} tokens; give one to two thousand tokens of general text")
        start = torch.tensor(model.start_ids, dtype=torch.long)
        self._ids = torch.cat([start, text]).to(model.device)[None]
        # the first token of all is not predicted, so it is not counted
        self._bytes = int(model.count_bytes(self._ids[0, 1:]).sum())
        with torch.no_grad():
            self._fresh = model.initial_state(1).detach()
        self._base = self._cost(self._fresh)

    def __call__(self, before: ModelState, after: ModelState) -> tuple[ModelState, GuardEvent | None]:
        """Return the memory to keep and what was done to it; see `Guard`."""
        first = self.rise(after)
        if first <= self.max_rise:
            return after, None
        candidates: list[tuple[str, Callable[[], ModelState]]] = [
            ("shrunk", lambda n=n: self._shrunk(after, self.share ** (n + 1)))  # type: ignore[misc]
            for n in range(self.tries)
        ]
        candidates.append(("rolled back", lambda: self._closed(before, after)))
        for action, make in candidates:
            state = make()
            if (rise := self.rise(state)) <= self.max_rise:
                return state, GuardEvent(action, first, rise, self.max_rise)
        state = self._closed(self._fresh, after)
        return state, GuardEvent("reset", first, self.rise(state), self.max_rise)

    def rise(self, state: ModelState) -> float:
        """Return by how many bits per byte the probe reads worse with a memory than without; nothing is learned."""
        return self._cost(state) - self._base

    def _cost(self, state: ModelState) -> float:
        report, _ = read(
            self.model, self._ids, self._closed(state, state), chunk_size=self.model.chunk_size, learn=False
        )
        return float(report.nll[0, 1:].sum()) / math.log(2) / self._bytes

    def _closed(self, state: ModelState, counters: ModelState) -> ModelState:
        """Return the memory of `state` between two documents, with the counters of another state."""
        closed = self.model.tick(state.new_segment(), "document")[0]
        return ModelState(closed.memory, {}, counters.tokens_seen, torch.zeros_like(counters.segment_len))

    def _shrunk(self, state: ModelState, share: float) -> ModelState:
        """Return the state with `share` of what its levels learned."""
        layers: dict[str, LayerState] = {}
        memories: dict[str, LeveledMemory] = dict(self.model.memories())
        for name, memory in memories.items():
            if name in state.memory:
                layers[name] = memory.shrink(state.layer(name), share)
        return with_layers(state, layers)
