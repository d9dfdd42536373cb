"""A compressed state for every document, and the one that fits best for what follows: nothing is overwritten."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from everlearn.learn.chunk import LearningModel
from everlearn.learn.route import BASE, LIVE, Route, choose
from everlearn.learn.stream import read
from everlearn.memory.archived import Archived
from everlearn.memory.low_rank import compress_state, decompress_state, deltas, from_tensors, to_tensors
from everlearn.memory.state import ModelState, concat_rows, with_layers
from everlearn.memory.users import plain_name

Drop = Callable[[Sequence[Archived]], str]


class ArchiveModel(LearningModel, Protocol):
    """What an archive needs of a model: to read with a state, and to say what a fresh stream starts from."""

    def initial_state(self, batch_size: int) -> ModelState:
        """Return what fresh streams start from."""
        ...


class Shelf(Protocol):
    """Where archived states outlive the process."""

    def load(self) -> list[Archived]:
        """Return everything that is there, in any order."""
        ...

    def save(self, entry: Archived) -> None:
        """Replace what is there under the name of an entry, in one step that survives a crash."""
        ...

    def forget(self, name: str) -> bool:
        """Remove an entry's bytes; tell whether there was one."""
        ...


def oldest(entries: Sequence[Archived]) -> str:
    """Drop what was kept or used longest ago."""
    return min(entries, key=lambda entry: entry.order).name


class Archive:
    """Keep what every document taught, compressed, and choose among {base, archived...} by recent loss.

    Reading a new document starts from the base, so no document can harm another; what the model knew before is a
    candidate at any time. The price is one reading of the window for each candidate, and a choice that may be wrong.
    What is archived is what the levels learned; what the mixers carry belongs to the stream. Archive a document before
    the event "document" is declared: levels that reset at it have forgotten it then. One process writes at a time.

    Args:
        model: left as it is.
        shelf: where entries are kept, such as `store.FolderArchive`; None keeps them in this object only.
        rank: directions kept of each matrix; see `memory.low_rank.compress`.
        bits: 8, or None to keep full precision.
        capacity: how many documents are kept at most, >= 1.
        drop: says which entry goes when there are too many.
        rows: candidates that are read in one batch; changes nothing but rounding, and memory.
        min_gain: how much less than the base, in nats per token, an archived state must cost to be chosen: ties, and
            what is rounding, go to the base.
    Raises:
        ValueError: a capacity or rows below 1, a min_gain below 0, or a shelf of another model.
    """

    def __init__(
        self,
        model: ArchiveModel,
        shelf: Shelf | None = None,
        *,
        rank: int = 8,
        bits: int | None = 8,
        capacity: int = 64,
        drop: Drop = oldest,
        rows: int = 16,
        min_gain: float = 1e-4,
    ) -> None:
        if capacity < 1 or rows < 1 or not 0 <= min_gain < math.inf:
            raise ValueError(
                f"capacity {capacity}, rows {rows} and min_gain {min_gain} do not fit; give capacity and rows >= 1 and "
                "min_gain >= 0"
            )
        self.model, self.shelf, self.rank, self.bits = model, shelf, rank, bits
        self.capacity, self.drop, self.rows, self.min_gain = capacity, drop, rows, min_gain
        self._chunk = max((memory.chunk_size for memory in model.memories().values()), default=1)
        with torch.no_grad():
            self._fresh = model.initial_state(1).detach()
        self._entries: dict[str, Archived] = {}
        for entry in sorted(shelf.load() if shelf else [], key=lambda entry: entry.order):
            decompress_state(entry.packed, self._fresh)
            self._entries[entry.name] = entry

    def entries(self) -> list[Archived]:
        """Return what is archived, the oldest first."""
        return sorted(self._entries.values(), key=lambda entry: entry.order)

    def names(self) -> list[str]:
        """Return the names of what is archived, the oldest first."""
        return [entry.name for entry in self.entries()]

    def entry(self, name: str) -> Archived:
        """Return what is kept of a document.

        Raises:
            ValueError: it is not archived.
        """
        if (entry := self._entries.get(plain_name(name, "document name"))) is None:
            raise ValueError(f"{name!r} is not archived; the archive holds {self.names()}: name one of them")
        return entry

    def nbytes(self) -> int:
        """Return the bytes of everything that is archived, earlier versions too."""
        return sum(entry.nbytes() for entry in self._entries.values())

    def keep(self, name: str, state: ModelState, *, again: bool = False) -> list[str]:
        """Archive what a document has taught; an entry of the name becomes its earlier version.

        Args:
            name: of the document or topic, 1 to 128 printable characters, neither "base" nor "live".
            state: one row.
            again: this is the reading that is kept already, read once more as after a crash: it takes the place of the
                entry, whose earlier version stays.
        Returns:
            the names of the documents that were dropped for it.
        Raises:
            ValueError: another name, several rows, NaN or infinity, or a state of another model; nothing was kept.
        """
        name = self.check_name(name)
        if state.batch_size != 1:
            raise ValueError(f"the state has {state.batch_size} rows; archive one document: state.rows([0])")
        packed = compress_state(state, self._fresh, self.model.memories(), rank=self.rank, bits=self.bits)
        packed = from_tensors(to_tensors(packed))  # on the CPU, as a file would give it back
        old = self._entries.get(name)
        if again and old is not None:
            newest = old.order == self._next() - 1
            self._put(Archived(name, packed, old.order if newest else self._next(), old.before))
        else:
            self._put(Archived(name, packed, self._next(), old.packed if old else None))
        dropped: list[str] = []
        while len(self._entries) > self.capacity:
            gone = self.drop([entry for entry in self.entries() if entry.name != name])
            if gone == name or not self.forget(gone):
                raise ValueError(f"drop named {gone!r}, which is none of the entries that it was given; return one")
            dropped.append(gone)
        return dropped

    def touch(self, name: str) -> None:
        """Say that a document is in use, so that it counts as the newest; `route` itself changes nothing.

        Raises:
            ValueError: it is not archived.
        """
        self._put(replace(self.entry(name), order=self._next()))

    def roll_back(self, name: str) -> None:
        """Undo the last `keep` of one document: its earlier version comes back, or it leaves the archive.

        All others stay as they are.

        Raises:
            ValueError: it is not archived.
        """
        entry = self.entry(name)
        if entry.before is None:
            self.forget(name)
        else:
            self._put(replace(entry, packed=entry.before, before=None))

    def forget(self, name: str) -> bool:
        """Remove a document, its earlier version and their bytes on the shelf; tell whether it was there."""
        name = plain_name(name, "document name")
        removed = self.shelf.forget(name) if self.shelf else False
        return self._entries.pop(name, None) is not None or removed

    def moved(self, state: ModelState) -> bool:
        """Tell whether some level of a state, one row, has learned anything."""
        return any(layer in state.memory and deltas(state, self._fresh, layer) for layer in self.model.memories())

    def state(self, name: str) -> ModelState:
        """Return what a document taught, between two documents, [1, ...]; "base" has learned nothing.

        Raises:
            ValueError: it is not archived.
        """
        return self._fresh if name == BASE else decompress_state(self.entry(name).packed, self._fresh)

    def onto(self, name: str, state: ModelState) -> ModelState:
        """Return a stream's state with the levels of a candidate in place of its own, to go on with.

        Args:
            name: a candidate, such as `Route.choice`; "live" is the state itself.
            state: one row; what it carries of the open segment stays, made by other weights (stale).
        """
        if name == LIVE:
            return state
        chosen = self.state(name)
        return with_layers(
            state, {layer: replace(state.layer(layer), memory=chosen.memory[layer]) for layer in self.model.memories()}
        )

    def candidates(self, state: ModelState) -> list[str]:
        """Return the names of what a stream could go on with instead of the base; see `route`."""
        return [*self.names(), *([LIVE] if self.moved(state) else [])]

    def route(
        self, window: Tensor, state: ModelState | None = None, *, context: int = 0, truth: str | None = None
    ) -> Route:
        """Find the candidate that predicts a window of recent tokens best; nothing is learned or changed.

        Args:
            window: [T] tokens, of which at least one is predicted and counted.
            state: of the stream before the window, one row; None reads the window as the start of a text. Where its
                own levels have learned something they are a candidate as well, "live", the last.
            context: tokens at the front of the window that are read and not counted.
            truth: the candidate that would be right, for the report; one that was dropped counts as an error.
        Raises:
            ValueError: a window that holds no token to count.
        """
        names, nll = self._losses(window, state)
        counted = nll[:, context:]
        if context < 0 or not bool((~counted.isnan()).any()):
            raise ValueError(
                f"a window of {len(window)} tokens with context {context} has no token to count; give a longer window"
            )
        return choose(names, counted, nll.numel(), self.min_gain, truth)

    def score(
        self, ids: Tensor, state: ModelState | None = None, *, chunk_size: int = 128, truth: str | None = None
    ) -> tuple[Tensor, list[Route]]:
        """Score a text, each chunk with the candidate that cost least on the one before; nothing is learned.

        The first chunk is read by the base, or by the live state where the text goes on in its open segment. Every
        candidate reads the whole text.

        Args:
            ids: [T] tokens.
            state: see `route`.
            chunk_size: tokens that are routed together, >= 2.
            truth: see `route`.
        Returns:
            nll: of each token in nats, [T] float64; NaN for the first of a segment, which nothing predicts.
            routes: one for every chunk but the first.
        Raises:
            ValueError: no token, or a chunk_size below 2.
        """
        if chunk_size < 2:
            raise ValueError(f"chunk_size {chunk_size} is below 2; give the tokens to route together, such as 128")
        names, nll = self._losses(ids, state)
        chunks = nll.split(chunk_size, dim=1)
        routes = [choose(names, chunk, chunk.numel(), self.min_gain, truth) for chunk in chunks[:-1]]
        goes_on = state is not None and LIVE in names and bool(state.segment_len[0] or state.context.get("open"))
        rows = [len(names) - 1 if goes_on else 0, *(names.index(route.choice) for route in routes)]
        return torch.cat([chunk[row] for row, chunk in zip(rows, chunks, strict=True)]), routes

    def _losses(self, ids: Tensor, state: ModelState | None) -> tuple[list[str], Tensor]:
        """Return the candidates, and what every token costs each of them, [candidates, T]."""
        if ids.ndim != 1 or not len(ids) or (state is not None and state.batch_size != 1):
            raise ValueError(
                f"tokens are {tuple(ids.shape)}, the state has {state.batch_size if state else 1} rows; route one "
                "stream at a time: [T] tokens, and a state of one row or none"
            )
        stream = self._fresh if state is None else state
        names = [BASE, *self.candidates(stream)]
        found = []
        for start in range(0, len(names), self.rows):
            group = [self.onto(name, stream) for name in names[start : start + self.rows]]
            batch = concat_rows(group, self._fresh)
            tokens = ids[None].expand(len(group), -1)
            found.append(read(self.model, tokens, batch, chunk_size=self._chunk, learn=False)[0].nll)
        return names, torch.cat(found)

    def _put(self, entry: Archived) -> None:
        """Make an entry durable first and visible after."""
        if self.shelf:
            self.shelf.save(entry)
        self._entries[entry.name] = entry

    def _next(self) -> int:
        """Return an order newer than all."""
        return 1 + max((entry.order for entry in self._entries.values()), default=0)

    @staticmethod
    def check_name(name: str) -> str:
        """Return a document's name in its one spelling.

        Raises:
            ValueError: no name of 1 to 128 printable characters, or the name of a candidate that is no document.
        """
        name = plain_name(name, "document name")
        if name in (BASE, LIVE):
            whose = "the model as it was" if name == BASE else "what is being read"
            raise ValueError(f"the name {name!r} stands for {whose}; choose another name for the document")
        return name
