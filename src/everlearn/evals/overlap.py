"""Overlapping tasks: what the memory inside an optimizer keeps of earlier ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from everlearn.rules import Rule, Slots


@dataclass(frozen=True)
class Tasks:
    """One input and one target per task, for several draws at once.

    Args:
        inputs: unit vectors, any two of one draw at the same angle, [S, T, D].
        targets: unit vectors, [S, T, N].
    """

    inputs: Tensor
    targets: Tensor


def tasks_at_angle(angle: float, draws: int, *, count: int = 8, dim: int = 16, out: int = 8, seed: int = 0) -> Tasks:
    """Draw tasks that overlap by a given angle; one linear map solves all of them as long as the angle is not 0.

    The gradient of a task is an error times its input, so at 90 degrees the tasks pull in orthogonal directions, as in
    the paper's argument [NL eq. 45] that a momentum of the last ones holds nothing of the first;
    see `momentum_weights`.

    Args:
        angle: between any two inputs of one draw [degrees], in (0, 90].
        draws: independent sets of tasks, S.
        count: tasks per set, T, at most dim.
        dim: length of an input, D.
        out: length of a target, N.
        seed: start of the generator.
    Raises:
        ValueError: an angle outside (0, 90], or more tasks than dimensions.
    """
    if not 0 < angle <= 90:
        raise ValueError(f"angle {angle} is outside (0, 90] degrees, so that many inputs cannot share it; try 60")
    if count > dim:
        raise ValueError(f"count {count} is above dim {dim}: those tasks have no common solution; raise dim")
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(draws, dim, count, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(normal).Q.mT
    cosine = math.cos(math.radians(angle))
    gram = cosine + (1 - cosine) * torch.eye(count, dtype=torch.float64)
    targets = torch.randn(draws, count, out, generator=generator, dtype=torch.float64)
    return Tasks(torch.linalg.cholesky(gram) @ basis, targets / targets.norm(dim=-1, keepdim=True))


def learn_in_turn(rule: Rule, tasks: Tasks, eta: float, steps: int = 100) -> tuple[Tensor, Tensor]:
    """Train one linear map on each task in turn, with nothing told when a task ends.

    Args:
        rule: how a step changes the weights; it keeps its slots from one task to the next.
        tasks: what is to be learned.
        eta: step size of the rule.
        steps: steps on each task.
    Returns:
        newest: what is missing of a task when its training ends, mean over tasks, [S]; |W x - y|^2, 1 knows nothing.
        old: what is missing of all tasks but the last at the very end, mean, [S].
    """
    draws, count, dim = tasks.inputs.shape
    weights = tasks.inputs.new_zeros(draws, tasks.targets.shape[-1], dim)
    slots: Slots = {}
    newest = []
    for t in range(count):
        x, y = tasks.inputs[:, t : t + 1], tasks.targets[:, t : t + 1]
        for _ in range(steps):
            grad = (x @ weights.mT - y).mT @ x
            weights, slots = rule(weights, grad, x, slots, eta=eta)
        newest.append(_missing(weights, x, y)[:, 0])
    return torch.stack(newest, 1).mean(1), _missing(weights, tasks.inputs, tasks.targets)[:, :-1].mean(1)


def momentum_weights(beta: float, steps: int) -> Tensor:
    """Return what each past gradient weighs in a bias-corrected momentum.  [NL eq. 45]

        m_t = sum_i w_i g_{t-i},   w_i = (1 - beta) beta^i / (1 - beta^t)

    Of tasks with orthogonal gradients the momentum holds, along an earlier one, the sum of w over the steps in which
    that was trained: after n more steps at most beta^n of it all, so 1e-5 of it at beta .9 and n 100.

    Args:
        beta: share of the old momentum that is kept, in [0, 1).
        steps: t, how many gradients have come.
    Returns:
        w, [t], of the newest first; their sum is 1.
    Raises:
        ValueError: beta outside [0, 1).
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta {beta} is outside [0, 1), so the weights have no sum; a momentum keeps less; try 0.9")
    age = torch.arange(steps, dtype=torch.float64)
    return (1 - beta) * beta**age / (1 - beta**steps)


def gradients_that_carry(share: float, beta: float) -> int:
    """Return how many of the newest gradients make up a share of a long momentum: 7 half of it at beta .9.

    Args:
        share: in (0, 1).
        beta: in (0, 1).
    """
    return math.ceil(math.log(1 - share) / math.log(beta) - 1e-9)


def _missing(weights: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return |W x - y|^2 of each task, [S, T]."""
    return (inputs @ weights.mT - targets).square().sum(-1)
