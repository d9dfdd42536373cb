"""Formal languages: after every symbol, say what the prefix is; short strings are trained on, long ones asked for.

The labels are those of Bhattamishra et al. (2020) and Irie et al. (2023), one class for each symbol read: whether the
prefix belongs to a regular language, which symbols may follow in a^n b^n, which brackets are open in Shuffle-2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.evals.tasks.task import Examples, Task, tagged


def parity(rows: int, length: int, generator: torch.Generator) -> Examples:
    """Draw bits; label 1 where the number of ones so far is even."""
    bits = torch.randint(0, 2, (rows, length), generator=generator)
    return tagged(bits, 1 - bits.cumsum(1) % 2, 2)


def pairs_of_a(rows: int, length: int, generator: torch.Generator) -> Examples:
    """Return a a a ...; label 1 where the prefix is in (aa)*. There is one such string of each length."""
    place = _places(rows, length)
    return tagged(torch.zeros_like(place), (place % 2 == 0).long(), 1)


def pairs_of_ab(rows: int, length: int, generator: torch.Generator) -> Examples:
    """Return a b a b ...; label 1 where the prefix is in (abab)*. There is one such string of each length."""
    place = _places(rows, length)
    return tagged((place + 1) % 2, (place % 4 == 0).long(), 2)


def counted_ab(rows: int, length: int, generator: torch.Generator) -> Examples:
    """Draw a^n b^n with n from 1 to length / 2; label what may follow: 0 = a or b, 1 = b, 2 = nothing.

    What stands behind the end of a shorter string is padding, symbol 2, and is not counted.
    """
    place = _places(rows, length)
    n = torch.randint(1, max(1, length // 2) + 1, (rows, 1), generator=generator)
    tokens = (place > n).long() + (place > 2 * n).long()
    labels = (place > n).long() + (place >= 2 * n).long()
    return tagged(tokens, labels, 3, place <= 2 * n)


def shuffle_2(rows: int, length: int, generator: torch.Generator) -> Examples:
    """Draw two kinds of brackets, each balanced by itself; label 2 [the first is open] + [the second is open].

    At every step a kind is drawn, and it closes with probability one half if any of it is open. Symbols: ( ) [ ].
    """
    kind = torch.randint(0, 2, (rows, length), generator=generator)
    closes = torch.randint(0, 2, (rows, length), generator=generator)
    open_ = torch.zeros(rows, 2, dtype=torch.long)
    tokens, labels = torch.empty_like(kind), torch.empty_like(kind)
    for t in range(length):
        which = kind[:, t : t + 1]
        close = closes[:, t : t + 1] * (open_.gather(1, which) > 0)
        open_ = open_.scatter_add(1, which, 1 - 2 * close)
        tokens[:, t] = (2 * which + close).squeeze(1)
        labels[:, t] = (open_ > 0).long() @ torch.tensor([2, 1])
    return tagged(tokens, labels, 4)


def _places(rows: int, length: int) -> Tensor:
    """Return the position of each symbol, counted from 1, [rows, length]."""
    return torch.arange(1, length + 1).expand(rows, -1)


LANGUAGES = {
    task.name: task
    for task in (
        Task("parity", 4, range(2, 4), parity),
        Task("(aa)*", 3, range(1, 3), pairs_of_a),
        Task("(abab)*", 4, range(2, 4), pairs_of_ab),
        Task("a^n b^n", 6, range(3, 6), counted_ab),
        Task("Shuffle-2", 8, range(4, 8), shuffle_2),
    )
}
