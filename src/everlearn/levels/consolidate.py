"""The only door, outside training, to weights that users share: from what a stream learned into the learned start."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, SupportsIndex, TypeVar

import torch
from torch import Tensor


class Absorbing(Protocol):
    """What consolidation needs of a memory."""

    def starts(self, levels: Sequence[str]) -> Mapping[str, Tensor]:
        """Return the parameters that hold these levels' learned start, by the name of the weights in a state."""
        ...


class Consolidating(Protocol):
    """What consolidation needs of a model."""

    def memories(self) -> Mapping[str, Absorbing]:
        """Return the memories that learn, by the name of their layer."""
        ...

    def fingerprint(self) -> str:
        """Return a hash of everything that decides results."""
        ...

    def check_state(self, state: Any) -> None:
        """Refuse a state that another model has written."""
        ...


class Learned(Protocol):
    """What consolidation needs of a state."""

    @property
    def memory(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Return layer name -> tensors, [B, ...], one row per stream."""
        ...


@dataclass(frozen=True)
class Verdict:
    """What a guard says of a candidate.

    Args:
        accepted: whether users may get it.
        reason: one sentence, for the audit.
        numbers: what was measured, by name; finite, so that JSON can hold them.
    Raises:
        ValueError: accepted is not True or False, or a number is not finite.
    """

    accepted: bool
    reason: str
    numbers: Mapping[str, float]

    def __post_init__(self) -> None:
        # the word "no" and a tensor count as true
        if not isinstance(self.accepted, bool):
            raise ValueError(f"accepted is {self.accepted!r}; True or False is needed: compare plain numbers")
        for name, value in self.numbers.items():
            if not math.isfinite(value):
                raise ValueError(
                    f"the guard's number {name!r} is {value}; numbers must be finite: leave it out and refuse"
                )


@dataclass(frozen=True)
class Consolidation:
    """What happened at the door, as plain data: `dataclasses.asdict` gives what JSON can hold.

    Args:
        levels: the levels whose start was to change.
        rows: the rows of the state whose mean was taken.
        before: fingerprint of the model that was given.
        after: fingerprint of the candidate, also when it was refused.
        change: "layer/level.part" -> how far the start moved, relative to its norm (to 1 where the norm is zero).
        largest_row: the same for the row that is furthest from the old start; far above `change`, one row stands out.
        verdict: what the guard said.
    """

    levels: tuple[str, ...]
    rows: tuple[int, ...]
    before: str
    after: str
    change: dict[str, float]
    largest_row: dict[str, float]
    verdict: Verdict


Model = TypeVar("Model", bound=Consolidating)
Guard = Callable[[Model, Model], Verdict]


def consolidate(
    model: Model,
    state: Learned,
    levels: Sequence[str],
    guard: Guard[Model],
    rows: Sequence[int] | Tensor | None = None,
) -> tuple[Model, Consolidation]:
    """Take what streams have learned into the learned start of a copy of the model, if the guard accepts it.

    Fresh streams of the new model begin where the mean of the rows stands. Collected gradients and clocks stay behind.
    States that were saved before hold absolute weights of the old model: they are valid with it alone, a store that
    goes by the fingerprint refuses them under the new model, and who wants to go on with them keeps the old model.

    A mean over rows is the plain mean: one bad row moves it. `largest_row` shows such a row, the guard has to catch it.

    Args:
        model: left untouched, bit for bit, unless the guard writes into it.
        state: of this model.
        levels: names of levels that learn. Nested levels share one start, so that only one of them can be named.
        guard: (old, new) -> verdict, such as `learn.ModelGuard`; there is none that accepts everything.
        rows: which rows of the state; None means all.
    Returns:
        model: the copy that has learned, or the given model itself when the guard refuses.
        event: what an audit keeps, either way.
    Raises:
        ValueError: no level or row, one that does not exist, a state of another model, or one that is not finite; a
            guard that returns no Verdict, or that changes one of the models.
    """
    if isinstance(levels, str):
        raise ValueError(f"levels is the word {levels!r}, which counts letter by letter; give a list: [{levels!r}]")
    levels, rows = tuple(levels), None if rows is None else _numbers(rows)
    model.check_state(state)
    before, candidate = model.fingerprint(), copy.deepcopy(model)
    starts = _starts(candidate, levels)
    taken = {name: _rows(name, start, state, rows) for name, start in starts.items()}
    change: dict[str, float] = {}
    largest_row: dict[str, float] = {}
    with torch.no_grad():
        for name, start in starts.items():
            unit = float(start.norm()) or 1.0
            mean = taken[name].mean(0)
            change[name] = float((mean - start).norm()) / unit
            largest_row[name] = float((taken[name] - start).flatten(1).norm(dim=1).max()) / unit
            start.copy_(mean)
    number = len(next(iter(taken.values())))
    after = candidate.fingerprint()
    verdict = guard(model, candidate)
    _check_guard(verdict, {"given": (model, before), "new": (candidate, after)})
    event = Consolidation(
        levels,
        tuple(range(number) if rows is None else rows),
        before,
        after,
        change,
        largest_row,
        verdict,
    )
    return (candidate if verdict.accepted else model), event


def _check_guard(verdict: object, models: Mapping[str, tuple[Consolidating, str]]) -> None:
    """Refuse what is no verdict, and a model that is no longer what its fingerprint was taken of."""
    if not isinstance(verdict, Verdict):
        raise ValueError(f"the guard returned {verdict!r}; a Verdict is needed: return Verdict(accepted, reason, {{}})")
    for name, (model, before) in models.items():
        if model.fingerprint() != before:
            raise ValueError(
                f"the guard changed the {name} model, which it may only read, so nothing was consolidated; measure on "
                "a copy.deepcopy of it, and load the given model again if it was that one"
            )


def _numbers(rows: Sequence[int] | Tensor) -> list[int]:
    """Return rows as plain numbers, which JSON can hold; refuse a mask, which would pick others than it is read as."""
    listed = rows.tolist() if isinstance(rows, Tensor) else list(rows)
    if any(isinstance(row, bool) or not isinstance(row, SupportsIndex) for row in listed):
        raise ValueError(f"rows {listed} are not whole numbers; name each row by its number, counted from 0")
    return [operator.index(row) for row in listed]


def _starts(model: Consolidating, levels: Sequence[str]) -> dict[str, Tensor]:
    """Return "layer/level.part" -> parameter for all memories of a model."""
    starts = {
        f"{layer}/{name}": start
        for layer, memory in model.memories().items()
        for name, start in memory.starts(levels).items()
    }
    if not starts:
        what = "has no memory that learns" if levels else "is fine, but no level was named"
        raise ValueError(f"the model {what}, so nothing can be consolidated; name levels that learn, such as 'slow'")
    return starts


def _rows(name: str, start: Tensor, state: Learned, rows: list[int] | None) -> Tensor:
    """Return what the rows have learned in place of one start, [R, ...]; refuse what does not fit or is not finite."""
    layer, _, leaf = name.rpartition("/")
    found = state.memory.get(layer, {}).get(leaf)
    if found is None or found.shape[1:] != start.shape or found.dtype != start.dtype:
        got = "nothing" if found is None else f"{found.dtype} {tuple(found.shape[1:])} per row"
        raise ValueError(
            f"the state is another model's: {name} is {got}, this model has {start.dtype} {tuple(start.shape)}; "
            "consolidate with the model that wrote it"
        )
    if rows is not None and any(not 0 <= row < len(found) for row in rows):
        raise ValueError(f"rows {rows} are not all in the state, which has {len(found)}; count from 0")
    picked = found.detach() if rows is None else found.detach()[rows]
    if not len(picked):
        raise ValueError("no row was named, so there is nothing to take over; give at least one, or None for all")
    if not bool(torch.isfinite(picked).all()):
        raise ValueError(f"{name} of the state holds NaN or infinity; nothing was consolidated; go back to a snapshot")
    return picked.to(start.device)
