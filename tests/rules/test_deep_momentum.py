"""Deep momentum: Adam at its start, and an independent writing of the network with torch's own parts.  [NL eq. 50]"""

import pytest
import torch

from everlearn.rules import adam, deep_momentum


def correlated(steps, shape, dtype=torch.float64):
    """Return gradients of which each leans on the one before, so that there is something to learn."""
    grads = [torch.randn(shape, dtype=dtype)]
    for _ in range(steps - 1):
        grads.append(0.8 * grads[-1] + 0.6 * torch.randn(shape, dtype=dtype))
    return grads


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_with_its_network_at_the_start_it_is_adam(dtype):
    """[NL eq. 50]: bit for bit over 30 steps; the first step always, since the network has seen nothing."""
    one = two = torch.ones(2, 3, 4, dtype=dtype)
    first, second = {}, {}
    for step, grad in enumerate(correlated(30, (2, 3, 4), dtype)):
        learning, _ = deep_momentum(one, grad, None, first, eta=0.1)
        one, first = deep_momentum(one, grad, None, first, eta=0.1, eta_inner=0.0)
        two, second = adam(two, grad, None, second, eta=0.1)
        assert torch.equal(one, two)
        assert torch.equal(learning, two) == (step == 0)


def test_the_network_equals_one_trained_with_torch():
    """[NL eq. 50]: linear layers, autograd and torch.optim.Adam on every second element, 12 steps."""
    grads, shape = correlated(12, (4, 6)), (4, 6)
    hidden = torch.nn.Linear(3, 8, dtype=torch.float64)
    out = torch.nn.Linear(8, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        start = torch.arange(32).double().cos().reshape(8, 4)
        hidden.weight.copy_(start[:, :3])
        hidden.bias.copy_(start[:, 3])
        out.weight.zero_()
    optimizer = torch.optim.Adam([*hidden.parameters(), *out.parameters()], lr=0.01)

    def moment(past, beta):
        if not past:
            return torch.zeros(shape, dtype=torch.float64)
        w = beta ** torch.arange(len(past) - 1, -1, -1, dtype=torch.float64)
        return (w / w.sum()) @ torch.stack(past).flatten(1)

    def say(a, b):
        features = torch.stack([a.abs(), b.abs(), a * b], -1)
        return a * 2 * torch.sigmoid(out(torch.tanh(hidden(features))).squeeze(-1))

    def averages(t):
        scale = moment([g**2 for g in grads[:t]], 0.999).sqrt() + 1e-8
        return moment(grads[:t], 0.9) / scale, moment(grads[:t], 0.99) / scale, scale

    expected = torch.ones(24, dtype=torch.float64)
    weights, slots = torch.ones(shape, dtype=torch.float64), {}
    for t, grad in enumerate(grads):
        optimizer.zero_grad()
        if t:
            a, b, scale = averages(t)
            (say(a[::2], b[::2]) - (grad.flatten() / scale)[::2]).square().mean().backward()
        else:
            for parameter in [*hidden.parameters(), *out.parameters()]:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        a, b, _ = averages(t + 1)
        with torch.no_grad():
            d = say(a, b)
            expected -= 0.1 * d * (a.square().mean() / d.square().mean()).sqrt()
        weights, slots = deep_momentum(weights, grad, None, slots, eta=0.1, eta_inner=0.01, samples=12)
    torch.testing.assert_close(weights.flatten(), expected, rtol=1e-9, atol=1e-10)


def test_a_sign_is_never_changed():
    weights, slots = torch.zeros(3, 4, dtype=torch.float64), {}
    plain, own = weights, {}
    for grad in correlated(40, (3, 4)):
        before, start = weights, plain
        weights, slots = deep_momentum(weights, grad, None, slots, eta=0.1, eta_inner=0.3)
        plain, own = adam(plain, grad, None, own, eta=0.1)
        assert torch.equal((weights - before).sign(), (plain - start).sign())
    assert slots["gate"].abs().max() > 0.3


def test_it_keeps_three_numbers_for_each_weight_and_a_kilobyte():
    weights = torch.zeros(64, 32)
    _, slots = deep_momentum(weights, torch.randn(64, 32), None, {}, eta=0.1)
    assert sum(slot.nbytes for slot in slots.values()) <= 3 * weights.nbytes + 1024
