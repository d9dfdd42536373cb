"""The gated delta momentum of rescaled gradients against the two rules that it is made of.  [NL eq. 46-49]"""

import pytest
import torch

from everlearn.rules import delta_momentum, delta_momentum_scaled, preconditioned

GRADS = torch.randn(8, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def steps(rule, grads, **settings):
    weights, slots = torch.zeros_like(grads[0]), {}
    for grad in grads:
        weights, slots = rule(weights, grad, None, slots, **settings)
    return weights


def test_without_a_gate_it_is_preconditioned_momentum():
    """[NL eq. 46-47]"""
    settings = {"eta": 0.1, "beta": 0.8, "beta2": 0.9}
    wanted = steps(preconditioned, GRADS, **settings)
    torch.testing.assert_close(steps(delta_momentum_scaled, GRADS, gamma=0.0, **settings), wanted, rtol=1e-12, atol=0)


def test_it_is_the_gated_rule_on_gradients_rescaled_by_hand():
    """[NL eq. 48-49] u from the definition of v, without any rule; the gate must have closed at least once."""
    beta2, scaled, v = 0.9, [], 0.0
    for t, grad in enumerate(GRADS, 1):
        v = beta2 * v + (1 - beta2) * grad**2
        scaled.append(grad / ((v / (1 - beta2**t)) ** 0.5 + 1e-8))
    settings = {"eta": 0.1, "beta": 0.8, "gamma": 0.7}
    wanted = steps(delta_momentum, scaled, **settings)
    torch.testing.assert_close(
        steps(delta_momentum_scaled, GRADS, beta2=beta2, **settings), wanted, rtol=1e-12, atol=1e-15
    )
    assert not torch.allclose(wanted, steps(delta_momentum, scaled, **{**settings, "gamma": 0.0}))


@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_the_size_of_the_gradients_does_not_matter(size):
    """eps 1e-8 is what is left of it: at gradients of 1e-6 a hundredth."""
    one, other = (steps(delta_momentum_scaled, s * GRADS, eta=0.1) for s in (1.0, size))
    torch.testing.assert_close(one, other, rtol=0.1, atol=0.02)
