"""One rule, two homes: an optimizer's step is a memory's write.  [NL eq. 1, 6, 8-13, 33]"""

import pytest
import torch
from torch import nn

from everlearn.optim import FromRule, capture
from everlearn.rules import delta_momentum, dgd, gd, least_squares, momentum, newton_schulz

OUT, IN, STEPS = 3, 5, 12


def l2(said, wanted):
    return (said - wanted).square().sum() / 2


def dot(said, wanted):
    return -(said * wanted).sum()


@pytest.mark.parametrize("objective", [l2, dot])
@pytest.mark.parametrize("rule", [gd, momentum, delta_momentum, dgd, newton_schulz, least_squares])
def test_a_layer_that_is_trained_is_a_memory_that_is_written(rule, objective):
    """[NL eq. 1, 6]: backward and step on inputs and targets, against torch.func.grad of the objective and the rule.

    The same products in another order, hence 1e-12.
    """
    keys = torch.randn(STEPS, 2, IN, dtype=torch.float64) / 2
    values = torch.randn(STEPS, 2, OUT, dtype=torch.float64)
    layer = nn.Linear(IN, OUT, bias=False, dtype=torch.float64)
    memory, slots = layer.weight.detach().clone(), {}
    optimizer = FromRule(layer.parameters(), rule, lr=0.1, inputs=capture(layer))
    for k, v in zip(keys, values, strict=True):
        optimizer.zero_grad()
        objective(layer(k), v).backward()
        optimizer.step()
        grad = torch.func.grad(lambda M, k=k, v=v: objective(k @ M.mT, v))(memory)
        memory, slots = rule(memory, grad, k, slots, eta=0.1)
        torch.testing.assert_close(layer.weight.detach(), memory, rtol=1e-12, atol=1e-12)
    assert not torch.equal(memory, torch.zeros_like(memory))


def minimiser(objective, start):
    """Return the minimum of a quadratic objective by one Newton step from anywhere."""
    slope = torch.func.grad(objective)(start).flatten()
    curvature = torch.func.hessian(objective)(start).reshape(slope.numel(), -1)
    return start - torch.linalg.solve(curvature, slope).reshape(start.shape)


def test_backpropagation_writes_the_surprise_of_each_layer():
    """[NL eq. 8-9]: W' = argmin <W x, dL/dy> + |W - W_0|^2 / (2 eta) for every layer of a network, and that is gd
    on a memory with keys x, values -dL/dy and the dot-product objective.
    """
    eta = 0.3
    model = nn.Sequential(nn.Linear(IN, 4, bias=False), nn.Tanh(), nn.Linear(4, OUT, bias=False)).double()
    outputs = []
    for layer in (model[0], model[2]):
        layer.register_forward_hook(lambda layer, args, y: (y.retain_grad(), outputs.append((args[0].detach(), y)))[0])
    starts = [layer.weight.detach().clone() for layer in (model[0], model[2])]
    model(torch.randn(2, IN, dtype=torch.float64)).exp().sum().backward()
    torch.optim.SGD(model.parameters(), lr=eta).step()
    for layer, start, (x, y) in zip((model[0], model[2]), starts, outputs, strict=True):
        surprise = y.grad
        solved = minimiser(
            lambda W, x=x, u=surprise, W0=start: ((x @ W.mT) * u).sum() + (W - W0).square().sum() / (2 * eta), start
        )
        torch.testing.assert_close(layer.weight.detach(), solved, rtol=1e-12, atol=1e-13)
        grad = torch.func.grad(lambda M, x=x, u=surprise: dot(x @ M.mT, -u))(start)
        written, _ = gd(start, grad, x, {}, eta=eta)
        torch.testing.assert_close(layer.weight.detach(), written, rtol=1e-12, atol=1e-13)


def test_momentum_is_a_memory_that_gd_fits_to_the_gradients():
    """[NL eq. 10-13]: the printed sum minimises -<m, g> + |m - beta m_0|^2 / 2, which is one step of gd on
    -<m, g> with a decay of (1 - beta) |m|^2 / 2.
    """
    beta, eta = 0.8, 0.1
    weights, slots = torch.zeros(OUT, IN, dtype=torch.float64), {}
    solved = written = held = torch.zeros(OUT, IN, dtype=torch.float64)
    for g in torch.randn(STEPS, OUT, IN, dtype=torch.float64):
        weights, slots = momentum(weights, g, None, slots, eta=eta, beta=beta, average=False)
        solved = minimiser(lambda m, g=g, m0=solved: -(m * g).sum() + (m - beta * m0).square().sum() / 2, solved)
        slope = torch.func.grad(lambda m, g=g: -(m * g).sum() + (1 - beta) / 2 * m.square().sum())(written)
        written, _ = gd(written, slope, None, {}, eta=1.0)
        held, _ = gd(held, written, None, {}, eta=eta)
        torch.testing.assert_close(slots["m"], solved, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(slots["m"], written, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(weights, held, rtol=1e-12, atol=1e-13)


def test_the_average_is_a_memory_that_gd_fits_to_the_gradients_by_l2():
    """[NL eq. 12-13, 33]: gd with step 1 - beta on |m - g|^2 / 2, whose value is the gradient itself."""
    beta, memory = 0.8, torch.zeros(OUT, IN, dtype=torch.float64)
    weights, slots = torch.zeros(OUT, IN, dtype=torch.float64), {}
    for g in torch.randn(STEPS, OUT, IN, dtype=torch.float64):
        weights, slots = momentum(weights, g, None, slots, eta=0.1, beta=beta)
        slope = torch.func.grad(lambda m, g=g: l2(m, g))(memory)
        memory, _ = gd(memory, slope, None, {}, eta=1 - beta)
        torch.testing.assert_close(slots["m"], memory, rtol=1e-12, atol=1e-13)
