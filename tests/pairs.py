"""Cases in which every value of an option meets every value of every other, without their whole product."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any


def pairs(*options: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Return few tuples, one value of each option, the same in every call: each two values stand together in one."""
    sizes = [range(len(option)) for option in options]
    places = list(itertools.combinations(range(len(sizes)), 2))

    def met(case: tuple[int, ...]) -> set[tuple[int, ...]]:
        return {(a, case[a], b, case[b]) for a, b in places}

    product = list(itertools.product(*sizes))
    missing = set().union(*map(met, product))
    chosen: list[tuple[int, ...]] = []
    used: Counter[tuple[int, int]] = Counter()
    while missing:
        # among the most useful the one whose values were seen least
        best = max(product, key=lambda case: (len(met(case) & missing), -sum(used[at] for at in enumerate(case))))
        chosen.append(best)
        used.update(enumerate(best))
        missing -= met(best)
    return [tuple(option[n] for option, n in zip(options, case, strict=True)) for case in sorted(chosen)]
