"""How many pairs a memory holds, and what tells that it is full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from everlearn.memory import AssociativeMemory
from everlearn.memory.health import recall, stable_rank
from everlearn.memory.state import LayerState


@dataclass(frozen=True)
class Pairs:
    """What is to be remembered: unit keys and unit values, each [S, N, D], for S draws at once."""

    keys: Tensor
    values: Tensor


def draw_pairs(draws: int, count: int, dim: int, *, common: float = 0.0, seed: int = 0) -> Pairs:
    """Draw random pairs whose keys may resemble each other.

    Args:
        draws: independent sets of pairs, S.
        count: pairs per set, N.
        dim: length of keys and values, D.
        common: cosine of any two keys in expectation, in [0, 1): a part that all keys of a draw share.
        seed: start of the generator.
    Raises:
        ValueError: common outside [0, 1).
    """
    if not 0 <= common < 1:
        raise ValueError(f"common {common} is outside [0, 1); 0 makes keys independent, 0.5 alike")
    generator = torch.Generator().manual_seed(seed)
    shared, own, values = (torch.randn(draws, n, dim, generator=generator) for n in (1, count, count))
    keys = common**0.5 * unit(shared) + (1 - common) ** 0.5 * unit(own)
    return Pairs(unit(keys), unit(values))


def unit(x: Tensor) -> Tensor:
    """Scale the last dimension to norm 1."""
    return x / x.norm(dim=-1, keepdim=True)


@torch.no_grad()
def recall_curve(memory: AssociativeMemory, pairs: Pairs, counts: Sequence[int]) -> dict[int, Tensor]:
    """Write pairs one after the other, each once, and ask for all of them after certain counts.

    Args:
        memory: of the pairs' dimension.
        pairs: at least as many as the largest count.
        counts: rising numbers of pairs after which is asked.
    Returns:
        count -> share of the pairs so far whose answer is nearest to their own value, [S]; chance is 1 / count.
    """
    state = memory.init(len(pairs.keys))
    curve, done = {}, 0
    for count in counts:
        state, _ = memory.write(state, pairs.keys[:, done:count], pairs.values[:, done:count])
        curve[count] = recall(memory, state, pairs.keys[:, :count], pairs.values[:, :count]).share
        done = count
    return curve


@dataclass(frozen=True)
class Health:
    """What can be seen of a memory after a number of writes; every field is a mean over draws but `writes`.

    Args:
        writes: pairs written so far.
        norm: Frobenius norm of the weights.
        stable_rank: directions that the weights use, of at most D.
        surprise: mean gradient norm over the last `window` writes.
        recent: share of the last `window` pairs that come back.
        oldest: share of the first `window` pairs that come back.
    """

    writes: int
    norm: float
    stable_rank: float
    surprise: float
    recent: float
    oldest: float


@torch.no_grad()
def watch(memory: AssociativeMemory, pairs: Pairs, counts: Sequence[int], window: int = 16) -> list[Health]:
    """Write pairs and look at the memory's health after certain counts, against the same `2 window` pairs.

    Args:
        memory: with a matrix for its architecture.
        pairs: at least as many as the largest count.
        counts: rising numbers of pairs, the first at least `window`.
        window: pairs that are asked for at either end; each competes with the others of its own end.
    """
    state = memory.init(len(pairs.keys))
    seen, done = [], 0
    for count in counts:
        state, surprise = memory.write(state, pairs.keys[:, done:count], pairs.values[:, done:count])
        done = count
        seen.append(_health(memory, state, pairs, count, surprise[:, -window:], window))
    return seen


def _health(
    memory: AssociativeMemory, state: LayerState, pairs: Pairs, count: int, surprise: Tensor, window: int
) -> Health:
    """Measure one moment."""
    weights = state.memory["M"]
    ends = (slice(count - window, count), slice(0, window))
    recent, oldest = (recall(memory, state, pairs.keys[:, end], pairs.values[:, end]).share for end in ends)
    norm = torch.linalg.matrix_norm(weights)
    means = [float(x.double().mean()) for x in (norm, stable_rank(weights), surprise, recent, oldest)]
    return Health(count, *means)
