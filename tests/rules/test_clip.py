"""The clip of [NL eq. 71], worked out by hand."""

import math

import torch

from everlearn.rules import clip_rows


def test_each_row_has_its_own_bound():
    """Rows of norm 5, 1 and 0: the first shrinks to 1, the others stay bit for bit."""
    grad = torch.tensor([[[3.0, 4.0]], [[0.6, 0.8]], [[0.0, 0.0]]], dtype=torch.float64)
    clipped, norm = clip_rows(grad)
    assert norm.tolist() == [5.0, 1.0, 0.0]
    torch.testing.assert_close(clipped[0], grad[0] / 5)
    assert torch.equal(clipped[1:], grad[1:])


def test_another_bound_and_none():
    grad = torch.tensor([[3.0, 4.0], [30.0, 40.0]])
    clipped, _ = clip_rows(grad, 10.0)
    assert torch.equal(clipped[0], grad[0])
    torch.testing.assert_close(clipped[1], torch.tensor([6.0, 8.0]))
    free, norm = clip_rows(grad, math.inf)
    assert torch.equal(free, grad)
    assert norm.tolist() == [5.0, 50.0]


def test_the_clip_can_be_differentiated_where_a_gradient_vanishes():
    """By hand: for x / |x| the slope of the first entry is (y^2, -x y) / |x|^3; below the bound it is the identity."""
    grad = torch.tensor([[3.0, 4.0], [0.3, 0.4], [1e-19, 0.0], [0.0, 0.0]], requires_grad=True)
    (slope,) = torch.autograd.grad(clip_rows(grad)[0][:, 0].sum(), grad)
    torch.testing.assert_close(slope, torch.tensor([[0.128, -0.096], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]))
    (slope,) = torch.autograd.grad(clip_rows(grad, math.inf)[0][:, 0].sum(), grad)
    assert slope.tolist() == [[1.0, 0.0]] * 4


def test_a_vanishing_gradient_is_finite_and_grows_into_its_bound():
    tiny = torch.full((1, 4), 1e-38)
    clipped, _ = clip_rows(tiny, 1e-39)
    assert bool(clipped.isfinite().all())
    assert clip_rows(torch.zeros(2, 0))[1].tolist() == [0.0, 0.0]
