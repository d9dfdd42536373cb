"""Adam is torch's, and it is the optimal element-wise memory of gradients.  [NL eq. 101-105]"""

import pytest
import torch

from everlearn.rules import adam


@pytest.mark.parametrize(("beta", "beta2", "eps"), [(0.9, 0.999, 1e-8), (0.95, 0.95, 1e-3), (0.0, 0.5, 1e-6)])
def test_the_numbers_are_those_of_torch(beta, beta2, eps):
    """[NL eq. 103-105]: 200 steps; what is left is how 1 - beta^t is rounded."""
    grads = torch.randn(200, 3, 4, dtype=torch.float64)
    start = torch.ones(3, 4, dtype=torch.float64)
    parameter = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.Adam([parameter], lr=0.01, betas=(beta, beta2), eps=eps)
    weights, slots = start, {}
    for grad in grads:
        parameter.grad = grad.clone()
        optimizer.step()
        weights, slots = adam(weights, grad, None, slots, eta=0.01, beta=beta, beta2=beta2, eps=eps)
    assert (weights - parameter.detach()).abs().max() < 1e-12


def averaging(beta: float, steps: int) -> torch.Tensor:
    """Return the weights of an average of the past, [steps, 1], adding up to 1."""
    w = beta ** torch.arange(steps - 1, -1, -1, dtype=torch.float64)
    return (w / w.sum())[:, None]


@pytest.mark.parametrize("beta2", [0.9, 0.99])
def test_its_direction_is_the_optimum_of_the_element_wise_objective(beta2):
    """[NL eq. 101-102]: the gradient of the objective vanishes at Adam's step, p = sqrt(v), lam = eps sqrt(v).

    With one average for both, the objective is the literal sum of squares; with two, its quadratic part carries one
    and its cross term the other, which is what makes the optimum p m / (v + lam) of two averages.
    """
    beta, eps, steps = 0.9, 1e-3, 30
    grads = torch.randn(steps, 5, dtype=torch.float64)
    weights, slots = torch.zeros(5, dtype=torch.float64), {}
    for grad in grads:
        before = weights
        weights, slots = adam(weights, grad, None, slots, eta=1.0, beta=beta, beta2=beta2, eps=eps)
    one, two = averaging(beta, steps), averaging(beta2, steps)
    p = (two * grads**2).sum(0).sqrt()

    def objective(x):
        if beta == beta2:
            return ((one * (x * grads - p) ** 2).sum(0) + eps * p * x**2).sum()
        return ((two * (x * grads) ** 2 - 2 * one * x * grads * p).sum(0) + eps * p * x**2).sum()

    x = (before - weights).requires_grad_()
    (slope,) = torch.autograd.grad(objective(x), x)
    assert slope.abs().max() < 1e-13
    assert all(objective(x + shift) > objective(x) for shift in 1e-3 * torch.randn(5, 5, dtype=torch.float64))
