"""Two measured numbers side by side: how far apart, and whether that is more than the spread."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Results = dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """The first of two means minus the second.

    Args:
        mean: the difference.
        spread: the standard deviation that it is held against; None when there was a single run.
        below, of: in how many of the paired runs the first was smaller, out of how many; of is 0 without pairs.
    """

    mean: float
    spread: float | None
    below: int = 0
    of: int = 0

    @property
    def sign(self) -> int:
        """Return -1, 0 or 1; 0 when the difference is no larger than the spread."""
        if abs(self.mean) <= (self.spread or 0.0):
            return 0
        return 1 if self.mean > 0 else -1

    def words(self, above: str, below: str, same: str) -> str:
        """Return the word for this sign; a single run is said to be one."""
        word = {1: above, -1: below, 0: same}[self.sign]
        return word if self.spread is not None else f"{word} (one run, spread unknown)"


def between_methods(one: Results, other: Results, key: str = "final") -> Difference:
    """Compare one number of two methods, with the larger of their standard deviations over seeds as the spread."""
    return Difference(one[key] - other[key], larger(one.get(f"{key}_sd"), other.get(f"{key}_sd")))


def between_readers(reading: Results, one: str, other: str, bucket: int) -> Difference:
    """Compare two readers in one bucket of positions.

    Where the results hold the numbers of each file, files are compared with themselves and the spread is the
    standard deviation of those differences; otherwise it is the larger of the two standard deviations over files.
    """
    mean = reading[one][bucket] - reading[other][bucket]
    rows = reading.get("per_file") or {}
    if one in rows and other in rows:
        pairs = np.array([a[bucket] - b[bucket] for a, b in zip(rows[one], rows[other], strict=True)])
        spread = float(np.std(pairs, ddof=1)) if len(pairs) > 1 else None
        return Difference(mean, spread, int(np.sum(pairs < 0)), len(pairs))
    deviations = [(reading.get(f"{name}_sd") or [None] * len(reading[name]))[bucket] for name in (one, other)]
    return Difference(mean, larger(*deviations))


def present(results: Results, path: str) -> bool:
    """Tell whether the results hold something at a dotted path; None and NaN are nothing."""
    value: Any = results
    for key in path.split("."):
        if not isinstance(value, dict) or key not in value:
            return False
        value = value[key]
    if isinstance(value, list):
        return bool(value) and not any(_missing(item) for item in value)
    return not _missing(value)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def larger(*deviations: float | None) -> float | None:
    """Return the larger of the standard deviations that are known; None where none is, as after a single run."""
    known = [deviation for deviation in deviations if deviation is not None and not _missing(deviation)]
    return max(known, default=None)
