"""Feature maps: products of features are what their docstrings say."""

import math

import pytest
import torch

from everlearn.memory import Polynomial, elu1, identity


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_products_of_polynomial_features_are_powers(degree):
    torch.manual_seed(0)
    x, y = torch.randn(2, 7, 5, dtype=torch.float64)
    phi = Polynomial(degree)
    # 1e-12 relative to a sum of binomial(5 + degree, degree) <= 126 terms: rounding alone
    torch.testing.assert_close(phi(x) @ phi(y).mT, (1 + x @ y.mT) ** degree, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("degree", "dim"), [(1, 4), (2, 3), (3, 5)])
def test_a_map_says_how_long_its_result_is(degree, dim):
    assert Polynomial(degree)(torch.ones(dim)).shape == (Polynomial(degree).size(dim),)
    assert Polynomial(degree).size(dim) == math.comb(dim + degree, degree)
    assert identity.size(dim) == elu1.size(dim) == dim


def test_degree_two_by_hand():
    """(1 + ax + by)^2 has the monomials 1, 2 ax, 2 by, 2 abxy, (ax)^2, (by)^2."""
    phi = Polynomial(2)(torch.tensor([3.0, 5.0], dtype=torch.float64))
    root = math.sqrt(2)
    assert sorted(phi.tolist()) == pytest.approx(sorted([1.0, 3 * root, 5 * root, 15 * root, 9.0, 25.0]))


def test_elementwise_maps_by_hand():
    x = torch.tensor([-1.0, 0.0, 2.0])
    assert torch.equal(identity(x), x)
    torch.testing.assert_close(elu1(x), torch.tensor([math.exp(-1), 1.0, 3.0]))


def test_a_degree_below_one_is_refused():
    with pytest.raises(ValueError, match="degree 0 is below 1"):
        Polynomial(0)
