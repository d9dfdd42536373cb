"""Overlapping tasks against projections worked out without any optimizer."""

import math

import pytest
import torch

from everlearn.evals.overlap import learn_in_turn, tasks_at_angle
from everlearn.rules import gd
from everlearn.rules.least_squares import least_squares


def projected(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return W after each task has been fitted exactly by the smallest change (Kaczmarz' method)."""
    weights = torch.zeros(targets.shape[-1], inputs.shape[-1], dtype=inputs.dtype)
    for x, y in zip(inputs, targets, strict=True):
        weights = weights + torch.outer(y - weights @ x, x)
    return weights


@pytest.mark.parametrize("angle", [90.0, 75.0, 60.0, 30.0])
def test_inputs_have_the_angle_and_unit_length(angle):
    tasks = tasks_at_angle(angle, 3)
    gram = tasks.inputs @ tasks.inputs.mT
    want = torch.full((8, 8), math.cos(math.radians(angle)), dtype=torch.float64).fill_diagonal_(1.0)
    assert torch.allclose(gram, want.expand(3, 8, 8), atol=1e-12)
    assert torch.allclose(tasks.targets.norm(dim=-1), torch.ones(3, 8, dtype=torch.float64))


@pytest.mark.parametrize("angle", [90.0, 60.0])
def test_gradient_descent_forgets_what_projection_says(angle):
    tasks = tasks_at_angle(angle, 4)
    newest, old = learn_in_turn(gd, tasks, 0.5)
    for draw in range(4):
        weights = projected(tasks.inputs[draw], tasks.targets[draw])
        missing = (tasks.inputs[draw] @ weights.T - tasks.targets[draw]).square().sum(-1)
        assert old[draw].item() == pytest.approx(missing[:-1].mean().item(), abs=1e-9)
    assert newest.max() < 1e-9
    assert old.max() < 1e-9 if angle == 90 else old.min() > 0.2


def test_exact_least_squares_forgets_nothing():
    tasks = tasks_at_angle(60.0, 4)
    newest, old = learn_in_turn(least_squares, tasks, 1.0, steps=300)
    assert newest.max() < 1e-3 and old.max() < 1e-3


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="angle 120"):
        tasks_at_angle(120.0, 1)
    with pytest.raises(ValueError, match="count 20"):
        tasks_at_angle(60.0, 1, count=20)
