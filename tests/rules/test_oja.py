"""Oja's rule: gradient descent on the key's reconstruction, and the principal component.  [NL eq. 66]"""

import pytest
import torch

from everlearn.rules import gd, oja


@pytest.mark.parametrize("batch", [(), (2,)])
def test_it_is_gradient_descent_on_the_reconstruction_of_the_key(batch):
    """[NL eq. 66]: |k - M^T v|^2 / 2, differentiated by torch."""
    M = torch.randn(*batch, 3, 5, dtype=torch.float64)
    k, v = torch.randn(*batch, 5, dtype=torch.float64), torch.randn(*batch, 3, dtype=torch.float64)

    def reconstruction(M):
        return (k - (M.mT @ v[..., None])[..., 0]).square().sum() / 2

    expected = gd(M, torch.func.grad(reconstruction)(M), None, {}, eta=0.3)[0]
    grad = -v[..., :, None] * k[..., None, :]
    torch.testing.assert_close(oja(M, grad, k, {}, eta=0.3)[0], expected, rtol=1e-12, atol=1e-13)


def test_values_that_the_memory_makes_itself_give_the_principal_component():
    """[NL eq. 66] with v = M k, the rule of Oja (1982): a row of norm 1 along the largest variance."""
    spread = torch.tensor([3.0, 1.0, 0.5], dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    M = 0.3 * torch.randn(1, 3, dtype=torch.float64)
    for t in range(3000):
        k = torch.randn(3, dtype=torch.float64) * spread @ rotation
        M, _ = oja(M, -(M @ k)[:, None] * k, k, {}, eta=0.5 / (t + 50))
    assert M.norm().item() == pytest.approx(1, abs=0.02)
    assert (M @ rotation[0]).abs().item() == pytest.approx(1, abs=0.02)


def test_a_zero_key_writes_nothing():
    M = torch.randn(3, 5)
    assert torch.equal(oja(M, torch.zeros(3, 5), torch.zeros(5), {}, eta=0.3)[0], M)


def test_two_keys_in_one_step_are_refused():
    with pytest.raises(ValueError, match=r"oja got 2 keys .* once for each token"):
        oja(torch.zeros(3, 5), torch.zeros(3, 5), torch.zeros(2, 5), {}, eta=0.3)
