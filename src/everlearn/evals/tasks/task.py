"""What a small task is: rows of tokens, the right answer at some of them, and how answers are counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Examples(NamedTuple):
    """Rows of one task.

    Args:
        tokens: [B, T] int64.
        targets: the right answer after each token, [B, T] int64, itself a token; arbitrary where not counted.
        counted: [B, T] bool, True where an answer is asked for.
    """

    tokens: Tensor
    targets: Tensor
    counted: Tensor


Draw = Callable[[int, int, torch.Generator], Examples]


@dataclass(frozen=True)
class Task:
    """A task that can be drawn at any length.

    Args:
        name: as tables print it.
        vocab_size: tokens of questions and answers together.
        answers: the tokens that an answer may be; all others are left out of the choice.
        draw: `(rows, length, generator) -> Examples` of that many rows of that many tokens.
    """

    name: str
    vocab_size: int
    answers: range
    draw: Draw


@dataclass(frozen=True)
class Answers:
    """What a model answered.

    Args:
        right: [B, T] bool, False where nothing was asked.
        examples: what it was asked.
    """

    right: Tensor
    examples: Examples

    def accuracy(self, chosen: Tensor | None = None) -> float:
        """Return the share of right answers among those asked for; NaN where none was.

        Args:
            chosen: [B, T] bool or broadcastable to it; None counts all.
        """
        counted = self.examples.counted if chosen is None else self.examples.counted & chosen
        return float(self.right[counted].double().mean())

    def between(self, first: int, last: int) -> float:
        """Return the accuracy at the positions `first` to `last`, counted from 1, both included."""
        place = torch.arange(1, self.right.shape[1] + 1)
        return self.accuracy((place >= first) & (place <= last))

    def rows_right(self) -> float:
        """Return the share of rows in which every answer is right."""
        return float((self.right | ~self.examples.counted).all(1).double().mean())

    def constant(self, first: int, last: int) -> float:
        """Return the accuracy of the best answer that is always the same, at the same positions as `between`."""
        part = slice(first - 1, last)
        asked = self.examples.targets[:, part][self.examples.counted[:, part]]
        return int(asked.bincount().max()) / len(asked)


def answer(
    model: nn.Module, task: Task, *, rows: int, length: int, generator: torch.Generator, at_once: int = 16
) -> Answers:
    """Ask a model; nothing is learned.

    Args:
        model: such as `models.Decoder`: `model(tokens [B, T]) -> (logits [B, T, V], state)`.
        task: see `Task`.
        rows: how many rows are drawn.
        length: tokens of each.
        generator: they are drawn from.
        at_once: rows that are computed together; changes nothing but rounding.
    """
    examples = task.draw(rows, length, generator)
    span = slice(task.answers.start, task.answers.stop)
    with torch.no_grad():
        chosen = [model(piece)[0][..., span].argmax(-1) for piece in examples.tokens.split(at_once)]
    right = (torch.cat(chosen) + task.answers.start == examples.targets) & examples.counted
    return Answers(right, examples)


def tagged(tokens: Tensor, labels: Tensor, symbols: int, counted: Tensor | None = None) -> Examples:
    """Return examples whose answers are labels, [B, T], put behind the symbols of the alphabet."""
    return Examples(tokens, labels + symbols, torch.ones_like(tokens, dtype=torch.bool) if counted is None else counted)
