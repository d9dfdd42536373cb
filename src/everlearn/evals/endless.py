"""Reading without end: what a stream of a million tokens costs in memory and time, measured on the way."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from everlearn.learn.stream import read
from everlearn.memory.state import ModelState
from everlearn.models.protocol import TextModel

PIECE = 4096  # tokens that are read at once; changes no result


@dataclass(frozen=True)
class Mark:
    """Where a reader stands.

    Args:
        tokens: read so far.
        state_bytes: what the state holds, of all layers.
        largest: largest absolute number in the state.
        finite: whether every number is finite.
        bits: mean bits per token since the mark before.
        microseconds: processor time per token since the mark before.
    """

    tokens: int
    state_bytes: int
    largest: float
    finite: bool
    bits: float
    microseconds: float


def read_on(model: TextModel, ids: Tensor, marks: Sequence[int], *, learn: bool) -> Iterator[Mark]:
    """Read a stream and yield a mark at each of the given places.

    Args:
        model: such as `models.Decoder`.
        ids: [T] tokens of one stream.
        marks: numbers of tokens, rising; the last at most T.
        learn: whether the levels learn on the way.
    Raises:
        ValueError: marks that do not rise, or that reach behind the end.
    """
    if not marks or list(marks) != sorted(set(marks)) or not 0 < marks[0] <= marks[-1] <= len(ids):
        raise ValueError(
            f"marks are {list(marks)} in a stream of {len(ids)} tokens; give rising numbers from 1 to {len(ids)}"
        )
    state, done = model.initial_state(1).detach(), 0
    for mark in marks:
        scores, start = [], time.process_time()
        for piece in ids[done:mark].split(PIECE):
            report, state = read(model, piece[None], state, chunk_size=model.chunk_size, learn=learn)
            scores.append(report.nll)
        spent = time.process_time() - start
        bits = torch.cat(scores, 1).nanmean().item() / math.log(2)
        yield Mark(mark, state.nbytes(), largest(state), state.is_finite(), bits, 1e6 * spent / (mark - done))
        done = mark


def largest(state: ModelState) -> float:
    """Return the largest absolute number that a state holds, counters left out."""
    numbers = [t for t in pytree.tree_leaves((state.memory, state.context)) if t.is_floating_point() and t.numel()]
    return max((float(t.abs().max()) for t in numbers), default=0.0)
