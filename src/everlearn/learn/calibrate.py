"""Find the step size at the length of the documents that will be read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from everlearn.layers.leveled import LeveledMemory
from everlearn.learn.chunk import NotFiniteError
from everlearn.learn.stream import read
from everlearn.levels import Level
from everlearn.memory.state import ModelState
from everlearn.models.protocol import TextModel

FACTOR = 3.0
CONTROLS = (0.3, 0.1)


@dataclass(frozen=True)
class Trial:
    """One rate.

    Args:
        scale: what every level's `eta` was multiplied by; 0 is the frozen model.
        bits_per_byte: of each text while it was read, in their order; empty where the rate diverged.
        relative: geometric mean over the texts of bits per byte over those of the frozen model; infinite where the
            rate diverged, below 1 where learning helps.
    """

    scale: float
    bits_per_byte: tuple[float, ...]
    relative: float


@dataclass(frozen=True)
class Calibration:
    """What `calibrate_lr` found.

    Args:
        scale: the factor to multiply every level's `eta` with; 0 where no rate helped.
        levels: memory name -> its levels with the chosen `eta`; unchanged where no rate helped.
        length: tokens of each text that were read.
        table: every trial, the frozen model first, then by scale.
        controls: the trials at 0.3 and 0.1 of the chosen scale: a claim about the shape of learning needs them beside
            it, because smaller steps alone do less damage.
    """

    scale: float
    levels: Mapping[str, tuple[Level, ...]]
    length: int
    table: tuple[Trial, ...]
    controls: tuple[Trial, ...]

    def lines(self) -> list[str]:
        """Return the table as text, one line for each trial."""
        marks = {self.scale: "chosen"} | {trial.scale: "control" for trial in self.controls}
        return [f"{'eta x':>8}  {'bits per byte of each text':<28}  of frozen"] + [
            f"{trial.scale:8.3g}  {' '.join(f'{bits:.3f}' for bits in trial.bits_per_byte) or 'diverged':<28}  "
            f"{'' if math.isinf(trial.relative) else f'{trial.relative:.4f}'} {marks.get(trial.scale, '')}".rstrip()
            for trial in self.table
        ]


def calibrate_lr(
    model: TextModel, texts: Sequence[str | bytes], *, length: int, factor: float = FACTOR, tries: int = 9
) -> Calibration:
    """Search for the step size on validation text, at the length that will be served.

    The levels' own `eta` are multiplied by 1, then by powers of `factor` up or down until the best rate has a worse
    neighbour on both sides; then the controls are read. A rate that diverges is refused, marked, and bounds the search;
    the model and its memories are left as they were. Rates that were found on short documents misled us on long ones,
    which is why `length` has no default.

    Args:
        model: with at least one level.
        texts: validation text, never what will be measured; each of at least `length` tokens.
        length: tokens of each text to read, more than one chunk.
        factor: between two rates, > 1.
        tries: rates to read at most, without the frozen model and the controls, >= 2.
    Returns:
        the chosen scale and the levels that it gives, with the whole table.
    Raises:
        ValueError: no text, a text that is too short, no level that learns, or a number outside its range.
    """
    if factor <= 1 or tries < 2:
        raise ValueError(f"factor {factor} must be above 1 and tries {tries} at least 2; try factor=3, tries=9")
    rows = _rows(model, texts, length)
    if not any(level.eta > 0 for memory in model.memories().values() for level in memory.learning_levels):
        raise ValueError("no level of this model learns, so there is no rate to find; give one an eta above 0")
    frozen = _bits(model, rows, 0.0)
    if frozen is None:
        raise ValueError("the frozen model's own loss on these texts is not finite; load its weights again")
    trials = {0.0: Trial(0.0, frozen, 1.0)}

    def relative(power: int) -> float:
        scale = factor**power
        if scale not in trials:
            trials[scale] = _trial(model, rows, scale, frozen)
        return trials[scale].relative

    best = _descend(relative, tries)
    scale = factor**best if relative(best) < 1 else 0.0
    controls = [_trial(model, rows, scale * share, frozen) for share in CONTROLS] if scale else []
    table = sorted([*trials.values(), *controls], key=lambda trial: trial.scale)
    levels = {name: _scaled(memory, scale or 1.0) for name, memory in model.memories().items()}
    return Calibration(scale, levels, length, tuple(table), tuple(controls))


def _descend(value: Callable[[int], float], tries: int) -> int:
    """Return the whole number with the smallest value(n), walking from 0 and asking for `tries` numbers at most."""
    seen = {n: value(n) for n in (0, 1)}
    while len(seen) < tries:
        best = min(seen, key=lambda n: (seen[n], n))
        around = [n for n in (best - 1, best + 1) if n not in seen]
        if not around:
            break
        seen[around[0]] = value(around[0])
    return min(seen, key=lambda n: (seen[n], n))


def _rows(model: TextModel, texts: Sequence[str | bytes], length: int) -> list[Tensor]:
    """Return the first `length` tokens of every text after those that open it, [1, S + length] each."""
    if not texts:
        raise ValueError("no text was given; give validation text of the kind that will be read")
    if length <= model.chunk_size:
        raise ValueError(
            f"length {length} is no more than a chunk of {model.chunk_size} tokens, from which nothing is learned in "
            "time; give the length of the documents to be read"
        )
    start = torch.tensor(model.start_ids, dtype=torch.long)
    rows = []
    for i, text in enumerate(texts):
        ids = model.encode(text)
        if len(ids) < length:
            raise ValueError(
                f"text {i} has {len(ids)} tokens, fewer than length {length}; give longer texts, or the length of the "
                "documents that will be read"
            )
        rows.append(torch.cat([start, ids[:length]]).to(model.device)[None])
    return rows


def _trial(model: TextModel, rows: Sequence[Tensor], scale: float, frozen: Sequence[float]) -> Trial:
    """Read every text with one rate."""
    bits = _bits(model, rows, scale)
    if bits is None:
        return Trial(scale, (), math.inf)
    ratios = [math.log(b / f) for b, f in zip(bits, frozen, strict=True)]
    return Trial(scale, bits, math.exp(sum(ratios) / len(ratios)))


def _bits(model: TextModel, rows: Sequence[Tensor], scale: float) -> tuple[float, ...] | None:
    """Return the bits per byte of every text while it is read; None where the rate diverges."""
    rated, bits = _Rated(model, scale), []
    with torch.no_grad():
        fresh = model.initial_state(1).detach()
    for ids in rows:
        try:
            report, _ = read(rated, ids, fresh, chunk_size=model.chunk_size, learn=scale > 0)
        except NotFiniteError:
            return None
        total = float(report.nll[0, 1:].sum()) / math.log(2)
        if not math.isfinite(total):
            return None
        bits.append(total / int(model.count_bytes(ids[0, 1:]).sum()))
    return tuple(bits)


class _Rated:
    """A model whose levels step with other rates; it reads with the same parameters."""

    def __init__(self, model: TextModel, scale: float) -> None:
        self.model = model
        self._memories = {name: memory.with_levels(_scaled(memory, scale)) for name, memory in model.memories().items()}

    def __call__(self, ids: Tensor, state: ModelState, mask: Tensor | None) -> tuple[Tensor, ModelState]:
        return self.model(ids, state, mask)

    def memories(self) -> Mapping[str, LeveledMemory]:
        """Return the memories with the other rates."""
        return self._memories


def _scaled(memory: LeveledMemory, scale: float) -> tuple[Level, ...]:
    """Return the levels of a memory with every eta multiplied."""
    return tuple(replace(level, eta=level.eta * scale) for level in memory.levels)
