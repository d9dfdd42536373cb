"""Overlapping tasks against projections worked out without any optimizer."""

import math

import pytest
import torch

from everlearn.evals.overlap import gradients_that_carry, learn_in_turn, momentum_weights, tasks_at_angle
from everlearn.rules import gd, momentum
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


def test_at_right_angles_a_momentum_holds_of_each_task_what_its_weights_say():
    """[NL eq. 45] 30 steps on each of four tasks, then the rule's own momentum, projected onto every task's input.

    The gradients are recorded as they come, and each is the error times the input of its task alone.
    """
    beta, steps, tasks = 0.9, 30, tasks_at_angle(90.0, 2, count=4)
    seen = []

    def recorded(weights, grad, key, slots, *, eta):
        seen.append((weights, grad, slots))
        return momentum(weights, grad, key, slots, eta=eta, beta=beta)

    learn_in_turn(recorded, tasks, 0.1, steps)
    weights, grad, slots = seen[-1]
    last, _ = momentum(weights, grad, None, slots, eta=1.0, beta=beta)
    m = weights - last  # the momentum after all steps
    grads, w = torch.stack([grad for _, grad, _ in seen]).flip(0), momentum_weights(beta, len(seen))
    torch.testing.assert_close(m, torch.einsum("i,isnd->snd", w, grads), rtol=1e-11, atol=1e-13)
    for task in range(4):
        own = slice((3 - task) * steps, (4 - task) * steps)  # its gradients, the newest first
        along = (m @ tasks.inputs[:, task].unsqueeze(-1))[..., 0]
        wanted = torch.einsum("i,isnd,sd->sn", w[own], grads[own], tasks.inputs[:, task])
        torch.testing.assert_close(along, wanted, rtol=1e-9, atol=1e-13)
        largest = grads[own].norm(dim=(-2, -1)).max()
        assert along.norm(dim=-1).max() <= beta ** ((3 - task) * steps) * largest


def test_the_weights_by_hand_and_how_many_carry_a_share():
    """[NL eq. 45] beta 1/2 and three gradients: 1/2, 1/4, 1/8 of 7/8. Counted by adding up, for .9, .99 and .999."""
    torch.testing.assert_close(momentum_weights(0.5, 3), torch.tensor([4, 2, 1]).double() / 7)
    assert momentum_weights(0.0, 3).tolist() == [1, 0, 0]
    for beta in (0.5, 0.9, 0.99, 0.999):
        total = momentum_weights(beta, 100_000).cumsum(0)
        for share in (0.5, 0.99):
            assert gradients_that_carry(share, beta) == int((total < share - 1e-12).sum()) + 1
    assert (gradients_that_carry(0.5, 0.9), gradients_that_carry(0.99, 0.9)) == (7, 44)
    with pytest.raises(ValueError, match=r"beta 1.0 is outside \[0, 1\)"):
        momentum_weights(1.0, 3)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="angle 120"):
        tasks_at_angle(120.0, 1)
    with pytest.raises(ValueError, match="count 20"):
        tasks_at_angle(60.0, 1, count=20)
