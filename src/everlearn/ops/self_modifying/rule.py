"""How self-modifying memories are written and read, what they start from, and what a stream leaves of them: data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

# the order of the dimension M: keys, values, step sizes, retention, the memory that is read, and optionally queries
MEMORIES = ("k", "v", "eta", "alpha", "main", "q")
MAIN = MEMORIES.index("main")

# (S,) of matrix memories M(x) = x + S x, or (W1, W2) of residual MLPs M(x) = x + W1 silu(W2 x)
Weights = tuple[Tensor, ...]


@dataclass(frozen=True)
class Objective:
    """What a memory's answer for a key costs.

    Args:
        loss: (answer [..., D], value [..., D]) -> [...].
        error: its gradient by the answer, [..., D]; the literal form differentiates `loss` instead.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    error: Callable[[Tensor, Tensor], Tensor]


def _dot_loss(answer: Tensor, value: Tensor) -> Tensor:
    return -(answer * value).sum(-1)


def _dot_error(answer: Tensor, value: Tensor) -> Tensor:
    return -value


def _l2_loss(answer: Tensor, value: Tensor) -> Tensor:
    return (answer - value).square().sum(-1) / 2


def _l2_error(answer: Tensor, value: Tensor) -> Tensor:
    return answer - value


DOT = Objective(_dot_loss, _dot_error)
L2 = Objective(_l2_loss, _l2_error)


@dataclass(frozen=True, kw_only=True)
class SelfModifyingRule:
    """How the memories are written and read; all of it changes results.

    Args:
        chunk_size: tokens (>= 1) that share one boundary state of the main memory.
        others_chunk_size: the same for the other memories; a multiple or a divisor of chunk_size; None is chunk_size.
        objective: `DOT` or `L2`, the attentional bias of every memory.
        implicit: divide the step of each weight matrix by 1 + eta |u|^2, u its input: it overshoots for no input.
        decay_inner: whether W2 of an MLP memory also forgets along its input, as W1 and a matrix memory do.
        read_boundary: read the main memory as the last chunk left it, blind to the token's own chunk; False reads all
            that was written before the token.
        beta: decay of the momentum, in [0, 1); 0 has none. The momentum is an average: its gradients weigh 1 - beta.
    Raises:
        ValueError: a value outside its range.
    """

    chunk_size: int = 16
    others_chunk_size: int | None = None
    objective: Objective = field(default=DOT)
    implicit: bool = False
    decay_inner: bool = False
    read_boundary: bool = False
    beta: float = 0.0

    def __post_init__(self) -> None:
        for name, size in (("chunk_size", self.chunk_size), ("others_chunk_size", self.others)):
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} is {size!r}; a chunk is a whole number of tokens >= 1: give one, such as 16")
        small, large = sorted((self.chunk_size, self.others))
        if large % small:
            raise ValueError(
                f"others_chunk_size {self.others} and chunk_size {self.chunk_size} do not divide one another, but each "
                f"chunk must end where the other's does; choose others_chunk_size={self.chunk_size}"
            )
        if not 0 <= self.beta < 1:
            raise ValueError(f"beta {self.beta} must lie in [0, 1), where 0 means no momentum; try 0.9")

    @property
    def others(self) -> int:
        """Return the chunk size of all memories but the main one."""
        return self.chunk_size if self.others_chunk_size is None else self.others_chunk_size

    @property
    def period(self) -> int:
        """Return the tokens after which all memories have ended a chunk."""
        return max(self.chunk_size, self.others)


class Readouts(NamedTuple):
    """What turns the answers of two memories into one step size and one retention gate per head.

        alpha = sigmoid(<alpha, M_alpha(x)> + alpha_bias),    eta = (1 + alpha) sigmoid(<eta, M_eta(x)> + eta_bias)

    Args:
        eta: [H, D].
        eta_bias: [H].
        alpha: [H, D].
        alpha_bias: [H].
    """

    eta: Tensor
    eta_bias: Tensor
    alpha: Tensor
    alpha_bias: Tensor


@dataclass(frozen=True)
class SelfModifyingState:
    """What a stream has left of the memories; every tensor is [B, ...], one row per stream.

    The tokens of the unfinished chunk have been written into `weights`; they wait to become the boundary.

    Args:
        weights: all tokens written, [B, H, M, out, in] each, M in the order of `MEMORIES`.
        boundary: the same at the end of each memory's last chunk: what generates and what gradients are taken at.
        momentum: like `weights`; () without momentum.
        filled: real tokens since the last boundary of all memories, [B] int64, below the rule's `period`.
    """

    weights: Weights
    boundary: Weights
    momentum: Weights
    filled: Tensor


def fresh_state(init: Weights, rows: int, rule: SelfModifyingRule) -> SelfModifyingState:
    """Return what `rows` streams start from.

    Args:
        init: the learned initial memories, [H, M, out, in] each; outer gradients reach them through every use.
        rows: B.
        rule: whether there is a momentum.
    """
    weights = tuple(w.expand(rows, *w.shape) for w in init)
    momentum = tuple(torch.zeros_like(w) for w in weights) if rule.beta else ()
    return SelfModifyingState(weights, weights, momentum, torch.zeros(rows, dtype=torch.long, device=init[0].device))
