"""A passkey in noise: some digits behind a marker, a long way of noise, then the question."""

from __future__ import annotations

import torch

from everlearn.evals.tasks.task import Examples, Task

NOISE, DIGITS = 24, 10  # symbols of the noise; then the digits, the marker of the needle, the question
MARKER, QUESTION = NOISE + DIGITS, NOISE + DIGITS + 1


def passkey(digits: int = 4, *, needle: bool = True) -> Task:
    """Return the task; the digits are asked for one by one, each with the right ones before it.

    A row is noise with `MARKER d d d d` somewhere in it, and ends with `QUESTION d d d d`. That every digit of a row is
    right is the same as that greedy decoding from the question writes the whole key.

    Args:
        digits: length of the key.
        needle: False leaves the key out of the noise: the control, where one digit in ten can be right.
    """
    tail = digits + 1

    def draw(rows: int, length: int, generator: torch.Generator) -> Examples:
        if length < 2 * tail:
            raise ValueError(
                f"a row of {length} tokens cannot hold a key of {digits} digits and its question; "
                f"give at least {2 * tail} tokens"
            )
        key = torch.randint(NOISE, NOISE + DIGITS, (rows, digits), generator=generator)
        tokens = torch.randint(0, NOISE, (rows, length), generator=generator)
        start = torch.randint(0, length - 2 * tail + 1, (rows, 1), generator=generator)
        if needle:
            marked = torch.cat([torch.full_like(start, MARKER), key], 1)
            tokens = tokens.scatter(1, start + torch.arange(tail), marked)
        tokens[:, -tail] = QUESTION
        tokens[:, -digits:] = key
        counted = torch.zeros_like(tokens, dtype=torch.bool)
        counted[:, -tail:-1] = True
        return Examples(tokens, tokens.roll(-1, 1), counted)

    return Task("passkey", QUESTION + 1, range(NOISE, NOISE + DIGITS), draw)
