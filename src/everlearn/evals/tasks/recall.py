"""In-context recall: key, value, key, value; a key that comes again asks for the value it had."""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.evals.tasks.task import Examples, Task

LAGS = ((2, 2), (3, 8), (9, 16), (17, 10**9))  # tokens since the key was last seen, first and last of each group


def recall(keys: int = 16) -> Task:
    """Return the task with that many keys and as many values, whose pairing is drawn for each row.

    Args:
        keys: tokens 0 to keys - 1 are keys, the next as many are values.
    """

    def draw(rows: int, length: int, generator: torch.Generator) -> Examples:
        pairs = (length + 1) // 2
        asked = torch.randint(0, keys, (rows, pairs), generator=generator)
        values = torch.randint(0, keys, (rows, keys), generator=generator).gather(1, asked) + keys
        again = (asked.unsqueeze(2) == asked.unsqueeze(1)).tril(-1).any(2)
        columns = ((asked, values), (values, values), (again, torch.zeros_like(again)))
        return Examples(*(torch.stack(pair, 2).flatten(1)[:, :length] for pair in columns))

    return Task(f"recall of {keys} keys", 2 * keys, range(keys, 2 * keys), draw)


def lags(tokens: Tensor) -> Tensor:
    """Return for each token how many tokens ago the same one stood last, [B, T]; 0 where it is new."""
    length = tokens.shape[1]
    distance = torch.arange(length)[:, None] - torch.arange(length)
    same = (tokens.unsqueeze(2) == tokens.unsqueeze(1)).tril(-1)
    nearest = torch.where(same, distance, length).amin(2)
    return torch.where(same.any(2), nearest, 0)
