"""Objectives: hand cases, limits, torch's own losses, and derivatives everywhere.  [NL eq. 6, 64-65]"""

import math

import pytest
import torch
import torch.nn.functional as F

from everlearn.memory import Huber, Lp, dot, kl, l2

ALL = {"dot": dot, "l2": l2, "l1": Lp(1), "l1.5": Lp(1.5), "l3": Lp(3), "huber": Huber(0.5), "kl": kl}


def pair(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    return torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64).softmax(-1)


def test_dot_and_l2_by_hand():
    y, v = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0, -1.0]]])
    assert dot(y, v).tolist() == [[-1.0]]
    assert l2(y, v).tolist() == [[6.5]]


def test_the_gradient_of_dot_is_the_value_and_that_of_l2_the_error():
    """The writes of linear attention and of the delta rule.  [NL eq. 64-65]"""
    y, v = pair()
    y.requires_grad_()
    assert torch.equal(torch.autograd.grad(dot(y, v).sum(), y)[0], -v)
    torch.testing.assert_close(torch.autograd.grad(l2(y, v).sum(), y)[0], y - v, rtol=0, atol=1e-15)


def test_lp_is_l2_at_two_and_nears_the_plain_power_far_from_zero():
    y, v = pair()
    torch.testing.assert_close(Lp(2)(y, v), l2(y, v), rtol=1e-12, atol=1e-12)
    # rounding changes |d|^p by about s^p: 1e-6 here
    torch.testing.assert_close(Lp(3, smooth=1e-2)(y, v), (y - v).abs().pow(3).sum(-1) / 3, rtol=0, atol=1e-3)
    torch.testing.assert_close(Lp(1, smooth=1e-6)(y, v), (y - v).abs().sum(-1), rtol=0, atol=1e-5)
    assert Lp(1.5)(v, v).abs().max() == 0


def test_huber_is_torch_s_and_l2_when_it_is_wide():
    y, v = pair()
    wanted = F.huber_loss(y, v, reduction="none", delta=0.5).sum(-1)
    torch.testing.assert_close(Huber(0.5)(y, v), wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(Huber(math.inf)(y, v), l2(y, v), rtol=1e-12, atol=1e-12)


def test_kl_is_torch_s_and_zero_for_the_right_answer():
    y, v = pair()
    wanted = F.kl_div(y.log_softmax(-1), v, reduction="none").sum(-1)
    torch.testing.assert_close(kl(y, v), wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(kl(v.log(), v), torch.zeros(2, 3, dtype=torch.float64), rtol=0, atol=1e-14)
    one_hot = F.one_hot(torch.tensor([[2]]), 4).double()
    torch.testing.assert_close(kl(torch.zeros(1, 1, 4).double(), one_hot), torch.tensor([[math.log(4)]]).double())


@pytest.mark.parametrize("name", ALL)
def test_derivatives_agree_with_finite_differences(name):
    y, v = pair(1)
    y.requires_grad_()
    v.requires_grad_()
    assert torch.autograd.gradcheck(ALL[name], (y, v))
    assert torch.autograd.gradgradcheck(ALL[name], (y, v))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("value", [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
def test_first_and_second_derivatives_are_finite_where_the_answer_is_right(name, value):
    v = torch.tensor([[value]], dtype=torch.float64, requires_grad=True)
    y = v.detach().clone().requires_grad_()
    first = torch.autograd.grad(ALL[name](y, v).sum(), (y, v), create_graph=True)
    assert all(torch.isfinite(part).all() for part in first)
    if first[0].requires_grad:
        second = torch.autograd.grad(first[0].square().sum() + first[0].sum(), (y, v), allow_unused=True)
        assert all(part is None or torch.isfinite(part).all() for part in second)


def test_curvature_where_the_answer_is_right():
    """Inside the square part of Huber it is 1, of a rounded power s^(p - 2)."""
    y = torch.zeros(1, 1, 1, dtype=torch.float64)
    for objective, wanted in ((Huber(0.5), 1.0), (Lp(1.5, smooth=1e-2), 10.0)):
        curve = torch.autograd.functional.hessian(lambda x, loss=objective: loss(x, y).sum(), y).item()
        assert curve == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Lp(0.5), "p 0.5 is below 1"),
        (lambda: Lp(2, smooth=0), "smooth 0 is not above zero"),
        (lambda: Huber(0), "delta 0 is not above zero"),
    ],
)
def test_a_value_outside_its_range_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
