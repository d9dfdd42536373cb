"""Orthogonal weight modification: a literal writing, its limits, and overlapping tasks.  [ours; NL eq. 47]"""

import math

import pytest
import torch

from everlearn.rules import gd, momentum, owm


def literal(steps, eta, period, *, guard=True, beta=0.9, kappa=1.0):
    """Run over (gradient of W, keys) with explicit sums; without the guard P waits for its period whatever comes."""
    W, past, S, P, last = torch.zeros(4, 8).double(), [], torch.zeros(8, 8).double(), None, 0
    for t, (grad, keys) in enumerate(steps):
        past.append(grad(W))
        C = sum(torch.outer(x, x) / (x @ x) for x in keys) / len(keys)
        S = S + C
        if P is None or t - last == period or (guard and period * eta * (C @ P).trace() >= 1):
            P, last = torch.linalg.inv(torch.eye(8).double() + kappa * S), t
        w = beta ** torch.arange(t, -1, -1, dtype=torch.float64)
        W = W - eta * torch.einsum("t,tij->ij", w / w.sum(), torch.stack(past)) @ P
    return W


def overlapping_tasks(angle=60, count=8, steps=100):
    """Return inputs with the same angle between any two, their targets, and the stream task after task."""
    cosine = math.cos(math.radians(angle))
    gram = (1 - cosine) * torch.eye(count).double() + cosine
    inputs = torch.linalg.cholesky(gram) @ torch.linalg.qr(torch.randn(8, 8).double())[0]
    targets = torch.randn(count, 4, dtype=torch.float64) / 2
    stream = [
        (lambda W, x=x, y=y: torch.outer(W @ x - y, x), x[None])
        for x, y in zip(inputs, targets, strict=True)
        for _ in range(steps)
    ]
    return inputs, targets, stream


def losses(W, inputs, targets):
    """Return the loss on the newest task and the mean over the old ones."""
    loss = (inputs @ W.mT - targets).square().sum(1) / 2
    return loss[-1].item(), loss[:-1].mean().item()


def run(rule, stream, **settings):
    W, slots = torch.zeros(4, 8).double(), {}
    for grad, keys in stream:
        W, slots = rule(W, grad(W), keys, slots, **settings)
    return W


@pytest.mark.parametrize(("eta", "period"), [(0.5, 1), (0.5, 4), (2.0, 7)])
def test_the_rule_is_its_equation(eta, period):
    """[NL eq. 47] with P = (I + kappa S)^-1; blocks of three random keys, 30 steps."""
    target = torch.randn(4, 8, dtype=torch.float64)
    blocks = torch.randn(30, 3, 8, dtype=torch.float64)
    stream = [(lambda W, X=X: (W - target) @ X.mT @ X / 3, X) for X in blocks]
    got = run(owm, stream, eta=eta, refresh_period=period, kappa=2.0)
    torch.testing.assert_close(got, literal(stream, eta, period, kappa=2.0), rtol=1e-10, atol=1e-11)


def test_overlapping_tasks_do_not_interfere():
    """At 60 degrees: newest and old loss <= .02; a gradient step loses the old ones (measured .25)."""
    inputs, targets, stream = overlapping_tasks()
    newest, old = losses(run(owm, stream, eta=3.0), inputs, targets)
    assert newest <= 0.02
    assert old <= 0.02
    newest, old = losses(run(gd, stream, eta=0.1), inputs, targets)
    assert newest <= 0.02
    assert old >= 0.2


def test_new_inputs_refresh_a_lagging_precision():
    """A period of 50 steps at eta 10 diverges when P waits for it, and learns every task with the guard."""
    inputs, targets, stream = overlapping_tasks()
    assert losses(literal(stream, 10.0, 50, guard=False, beta=0.0), inputs, targets)[0] > 1e50
    newest, old = losses(run(owm, stream, eta=10.0, refresh_period=50, beta=0.0), inputs, targets)
    assert newest <= 0.02
    assert old <= 0.02


def test_without_protection_it_is_momentum():
    _, _, stream = overlapping_tasks(steps=3)
    torch.testing.assert_close(run(owm, stream, eta=0.1, kappa=0.0), run(momentum, stream, eta=0.1))


def test_with_a_memory_of_one_input_only_its_direction_is_protected():
    """By hand: x = e1 seen twice, kappa 1: P = diag(1/3, 1); the gradient (3, 3) moves by (1, 3)."""
    x, W, grad = torch.tensor([1.0, 0.0]), torch.zeros(1, 2), torch.tensor([[3.0, 3.0]])
    settings = {"eta": 1.0, "beta": 0.0, "refresh_period": 1}
    W, slots = owm(W, 0 * grad, x, {}, **settings)
    torch.testing.assert_close(owm(W, grad, x, slots, **settings)[0], torch.tensor([[-1.0, -3.0]]))
