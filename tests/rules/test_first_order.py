"""Gradient descent and momentum against torch's optimizer and by hand.  [NL eq. 1, 10-13, 33]"""

import pytest
import torch

from everlearn.rules import gd, momentum


def gradients(steps: int) -> torch.Tensor:
    return torch.randn(steps, 3, 4, dtype=torch.float64)


def sgd(start: torch.Tensor, grads: torch.Tensor, eta: float, beta: float) -> torch.Tensor:
    """Return the weights after torch.optim.SGD has taken the given gradients."""
    weights = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.SGD([weights], lr=eta, momentum=beta)
    for grad in grads:
        weights.grad = grad.clone()
        optimizer.step()
    return weights.detach()


def test_gd_is_sgd():
    """[NL eq. 1], equal up to the fused multiply-add that torch may use."""
    grads, start = gradients(7), torch.ones(3, 4, dtype=torch.float64)
    weights = start
    for grad in grads:
        weights, slots = gd(weights, grad, None, {}, eta=0.3)
        assert slots == {}
    torch.testing.assert_close(weights, sgd(start, grads, 0.3, 0.0), rtol=1e-14, atol=1e-14)
    assert torch.equal(start, torch.ones(3, 4, dtype=torch.float64))


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.7])
def test_gd_takes_a_step_size_for_each_row(eta):
    weights, grad = torch.randn(3, 4, 5, dtype=torch.float64), torch.randn(3, 4, 5, dtype=torch.float64)
    etas = eta * torch.arange(1, 4, dtype=torch.float64).reshape(-1, 1, 1)
    together, _ = gd(weights, grad, None, {}, eta=etas)
    for row in range(3):
        alone, _ = gd(weights[row], grad[row], None, {}, eta=eta * (row + 1))
        torch.testing.assert_close(alone, weights[row] - eta * (row + 1) * grad[row], atol=1e-15, rtol=0)
        torch.testing.assert_close(together[row], alone, atol=1e-15, rtol=0)


def test_the_printed_sum_is_sgd_with_momentum():
    """[NL eq. 10-13]: m_t = beta m_{t-1} + g_t, equal up to the order of two additions."""
    grads, start = gradients(9), torch.ones(3, 4, dtype=torch.float64)
    weights, slots = start, {}
    for grad in grads:
        weights, slots = momentum(weights, grad, None, slots, eta=0.1, beta=0.8, average=False)
    torch.testing.assert_close(weights, sgd(start, grads, 0.1, 0.8), rtol=1e-12, atol=1e-12)


def test_the_average_by_hand():
    """[NL eq. 33]: gradients 1 then 4, beta 1/2, eta 1: m = 1/2, then 9/4; mass 1/2, then 3/4; steps 1, then 3."""
    one, four = torch.ones(1), torch.full((1,), 4.0)
    weights, slots = momentum(torch.zeros(1), one, None, {}, eta=1.0, beta=0.5)
    assert weights.tolist() == [-1.0]
    weights, slots = momentum(weights, four, None, slots, eta=1.0, beta=0.5)
    assert (slots["m"].tolist(), slots["mass"].tolist()) == ([2.25], [0.75])
    assert weights.tolist() == [-4.0]
    assert momentum(torch.zeros(1), one, None, {}, eta=1.0)[1]["m"].tolist() == pytest.approx([0.1])  # beta is 0.9


def test_a_constant_gradient_is_its_own_average():
    grad = gradients(1)[0]
    weights, slots = torch.zeros_like(grad), {}
    for step in range(1, 6):
        weights, slots = momentum(weights, grad, None, slots, eta=0.1, beta=0.9)
        torch.testing.assert_close(weights, -0.1 * step * grad, rtol=1e-12, atol=0)


@pytest.mark.parametrize("average", [True, False])
def test_momentum_leaves_its_arguments_untouched(average):
    grads, weights = gradients(2), torch.ones(3, 4, dtype=torch.float64)
    _, first = momentum(weights, grads[0], None, {}, eta=0.1, average=average)
    kept = {name: slot.clone() for name, slot in first.items()}
    momentum(weights, grads[1], None, first, eta=0.1, average=average)
    assert all(torch.equal(first[name], kept[name]) for name in kept)
    assert torch.equal(weights, torch.ones(3, 4, dtype=torch.float64))
