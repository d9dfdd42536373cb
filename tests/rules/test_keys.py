"""What a rule makes of the layer's input, and what it refuses."""

import pytest
import torch

from everlearn.rules import dgd, least_squares, oja, omega, owm
from everlearn.rules.keys import error_of, key_block


@pytest.mark.parametrize("rule", [dgd, least_squares, oja, omega, owm])
def test_a_rule_that_needs_a_key_says_so(rule):
    with pytest.raises(ValueError, match=rf"^{rule.__name__} got no key; give .* or choose gd"):
        rule(torch.zeros(2, 3), torch.zeros(2, 3), None, {}, eta=0.1)


@pytest.mark.parametrize("shape", [(4,), (5, 4), (3, 5, 3), (3, 3), ()])
def test_keys_of_another_layer_are_refused(shape):
    with pytest.raises(ValueError, match=r"dgd got keys .* \[2, T, 3\] or \[2, 3\] is needed"):
        dgd(torch.zeros(2, 4, 3), torch.zeros(2, 4, 3), torch.zeros(shape), {}, eta=0.1)


def test_one_key_per_matrix_is_a_block_of_one():
    keys = torch.randn(2, 3)
    assert torch.equal(key_block("dgd", keys, torch.zeros(2, 4, 3)), keys[:, None])
    assert torch.equal(key_block("dgd", keys[0], torch.zeros(3)), keys[:1])


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_the_error_is_read_back_from_the_gradient(scale):
    """grad = e k^T, at sizes where the square of a float32 key under- or overflows."""
    k, e = torch.randn(2, 1, 3) * scale, torch.randn(2, 1, 4)
    torch.testing.assert_close(error_of(e.mT @ k, k), e, rtol=1e-5, atol=1e-6)
    assert torch.equal(error_of(torch.zeros(2, 4, 3), 0 * k), torch.zeros(2, 1, 4))
