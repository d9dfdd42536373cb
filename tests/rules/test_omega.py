"""The omega rule against a loop that keeps its own list of tokens, float64.  [NL eq. 67-68]"""

import pytest
import torch

from everlearn.rules import gd, omega


def stream(tokens, *batch):
    keys = torch.randn(tokens, *batch, 5, dtype=torch.float64)
    return keys / keys.norm(dim=-1, keepdim=True), torch.randn(tokens, *batch, 3, dtype=torch.float64)


def l2(M, k, v):
    return ((M @ k[..., None])[..., 0] - v).square().sum() / 2


@pytest.mark.parametrize("window", [1, 2, 4, 20])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_it_is_gradient_descent_on_the_last_tokens(window, batch):
    """[NL eq. 67-68]: the literal sum over the window at the present weights, differentiated by torch."""
    keys, values = stream(12, *batch)
    M = expected = torch.randn(*batch, 3, 5, dtype=torch.float64)
    slots = {}
    for t, (k, v) in enumerate(zip(keys, values, strict=True)):
        M, slots = omega(M, torch.func.grad(l2)(M, k, v), k, slots, eta=0.1, window=window)
        last = range(max(0, t + 1 - window), t + 1)
        expected = expected - 0.1 * sum(torch.func.grad(l2)(expected, keys[i], values[i]) for i in last)
    torch.testing.assert_close(M, expected, rtol=1e-11, atol=1e-12)


def test_a_window_of_one_is_gd():
    """[NL eq. 67-68] with c = 1: bit for bit."""
    keys, values = stream(9)
    one = two = torch.zeros(3, 5, dtype=torch.float64)
    slots = {}
    for k, v in zip(keys, values, strict=True):
        grad = torch.func.grad(l2)(one, k, v)
        one, slots = omega(one, grad, k, slots, eta=0.3, window=1)
        two, _ = gd(two, grad, None, {}, eta=0.3)
        assert torch.equal(one, two)


def test_the_window_keeps_what_it_was_given():
    keys, values = stream(5)
    M, slots = torch.randn(3, 5, dtype=torch.float64), {}
    for k, v in zip(keys, values, strict=True):
        M, slots = omega(M, torch.func.grad(l2)(M, k, v), k, slots, eta=0.3, window=3)
    assert torch.equal(slots["keys"], keys[2:])
    torch.testing.assert_close(slots["values"], values[2:], rtol=1e-12, atol=1e-12)


def test_another_window_and_a_block_of_keys_are_refused():
    M, k = torch.zeros(3, 5), torch.ones(5)
    slots = omega(M, M, k, {}, eta=0.3, window=3)[1]
    with pytest.raises(ValueError, match="window 4 and slots with a window of 3"):
        omega(M, M, k, slots, eta=0.3, window=4)
    with pytest.raises(ValueError, match="got 2 keys"):
        omega(M, M, torch.ones(2, 5), {}, eta=0.3)
