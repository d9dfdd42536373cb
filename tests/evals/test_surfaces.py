"""The surfaces by hand and by finite differences, and descents whose every step is known."""

import math

import pytest
import torch

from everlearn.evals.surfaces import Valley, descend, rastrigin
from everlearn.rules import gd, momentum


def test_the_valley_is_its_formula():
    """[NL eq. 53] at r = 1/2, theta = 2, k = 5, alpha = 1, omega = pi: 1/4 + 5 (1/2 - 2 + 1)^2 = 3/2."""
    valley = Valley(5.0, 1.0, math.pi)
    assert valley(torch.tensor([0.5, 2.0]).double()).item() == pytest.approx(1.5)
    assert valley(torch.zeros(3, 2)).tolist() == [0, 0, 0]


def test_its_floor_is_the_parabola_and_the_walls_rise_by_k():
    """[NL eq. 53] On theta = r + alpha sin(omega r) the height is r^2; beside it, k d^2 more."""
    r = torch.linspace(-3, 3, 50, dtype=torch.float64)
    floor = r + 0.7 * torch.sin(5 * r)
    valley = Valley(20.0, 0.7, 5.0)
    torch.testing.assert_close(valley(torch.stack([r, floor], -1)), r**2)
    torch.testing.assert_close(valley(torch.stack([r, floor + 0.1], -1)), r**2 + 20 * 0.01)


def test_a_turn_moves_the_axes_and_nothing_else():
    points, turn = torch.randn(9, 2, dtype=torch.float64), 0.6
    back = torch.tensor([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]]).double()
    torch.testing.assert_close(Valley(5.0, 1.0, 5.0, turn)(points), Valley(5.0, 1.0, 5.0)(points @ back.T))


def test_in_three_dimensions_the_floor_is_a_helix():
    r = torch.linspace(-3, 3, 50, dtype=torch.float64)
    helix = torch.stack([r, r + torch.sin(5 * r), r + torch.cos(5 * r) - 1], -1)
    torch.testing.assert_close(Valley(5.0, 1.0, 5.0)(helix), r**2)
    aside = helix + torch.tensor([0.0, 0.0, 0.1])
    torch.testing.assert_close(Valley(5.0, 1.0, 5.0)(aside), r**2 + 5 * 0.01)


def test_many_minima_are_where_they_are_said_to_be():
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.0]]).double()
    torch.testing.assert_close(rastrigin(points), torch.tensor([0.0, 1.0, 20.25]).double())


def bowl(points):
    return points.square().sum(-1)


def test_a_bowl_is_descended_as_arithmetic_says():
    """x <- (1 - 2 eta) x: at eta 1/4 from 1 the height is 4^-n, below 1e-3 after five steps; at 1 it never falls."""
    starts = torch.tensor([[1.0, 0.0], [0.0, 0.01]]).double()
    found = descend(bowl, gd, starts, torch.tensor([0.25, 1.0]).double(), 8)
    assert found.first.tolist() == [[5, 1], [math.inf, 1]]
    torch.testing.assert_close(found.last[0], starts / 2**8)
    torch.testing.assert_close(found.last[1], starts)
    assert found.solved.tolist() == [1.0, 0.5]
    assert found.median.tolist() == [1, 1]


def test_fewer_than_half_has_no_median():
    starts = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 0.01]]).double()
    found = descend(bowl, gd, starts, torch.tensor(1.0).double(), 3)
    assert found.solved.item() == pytest.approx(1 / 3) and found.median.item() == math.inf


def test_several_surfaces_at_once_are_each_of_them_alone():
    starts, rates = torch.randn(4, 2).double(), torch.tensor([0.01, 0.02, 0.05]).double()
    k, alpha, omega = (torch.tensor(x).double() for x in ((5, 20), (0.5, 1), (5, 2)))
    both = descend(
        Valley(k[:, None, None], alpha[:, None, None], omega[:, None, None]), momentum, starts, rates.expand(2, 3), 30
    )
    for i in range(2):
        alone = descend(Valley(float(k[i]), float(alpha[i]), float(omega[i])), momentum, starts, rates, 30)
        torch.testing.assert_close(both.last[i], alone.last, rtol=1e-12, atol=1e-12)
        assert torch.equal(both.first[i], alone.first)


def test_the_schedule_scales_every_step():
    """With a rate that falls linearly to zero in 4 steps, x is multiplied by 1 - 2 eta (1, 3/4, 1/2, 1/4)."""
    found = descend(
        bowl, gd, torch.tensor([[1.0, 0.0]]).double(), torch.tensor(0.25).double(), 4, schedule=lambda d: 1 - d
    )
    assert found.last[0, 0].item() == pytest.approx((1 - 1 / 2) * (1 - 3 / 8) * (1 - 1 / 4) * (1 - 1 / 8))
