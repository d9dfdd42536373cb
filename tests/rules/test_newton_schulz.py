"""Orthogonalisation and Muon: literal writings, torch's own, and the objective.  [NL eq. 42-44, 52]"""

import pytest
import torch

from everlearn.rules import newton_schulz, orthogonalize


def literal(x, steps=5):
    """Write the quintic with powers of explicit matrices, always in the same orientation."""
    x = x / x.square().sum().sqrt()
    for _ in range(steps):
        x = 3.4445 * x - 4.7750 * x @ x.mT @ x + 2.0315 * x @ x.mT @ x @ x.mT @ x
    return x


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (5, 5), (1, 4), (4, 1)])
def test_the_quintic_is_its_equation(shape):
    """[NL eq. 44]: wide, tall, square, a row and a column; the order of the products differs, hence 1e-12."""
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(orthogonalize(x), literal(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(orthogonalize(x, 2), literal(x, 2), rtol=1e-12, atol=1e-12)


def test_one_cubic_step_is_gradient_descent_on_the_distance_to_orthogonal():
    """[NL eq. 42-43]: X - zeta d/dX |X X^T - I|^2 / 4 at a matrix of norm 1."""
    x = torch.randn(3, 5, dtype=torch.float64)
    x, zeta = x / x.norm(), 0.3
    slope = torch.func.grad(lambda x: (x @ x.mT - torch.eye(3).double()).square().sum() / 4)(x)
    step = orthogonalize(x, 1, coefficients=(1 + zeta, -zeta, 0.0))
    torch.testing.assert_close(step, x - zeta * slope, rtol=1e-13, atol=1e-14)


def test_cubic_steps_converge_to_the_polar_factor():
    """[NL eq. 42-44]: with (3/2, -1/2, 0) the iteration converges to U V^T of the singular value decomposition."""
    x = torch.randn(4, 6, dtype=torch.float64)
    U, _, Vh = torch.linalg.svd(x, full_matrices=False)
    torch.testing.assert_close(orthogonalize(x, 40, coefficients=(1.5, -0.5, 0.0)), U @ Vh, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", [(64, 64), (64, 256), (256, 64), (256, 256)])
def test_singular_values_come_near_one(shape):
    """At least 97 % of them in [.65, 1.25], none above, as measured on Gaussian matrices."""
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)))
    assert values.max() <= 1.25
    assert (values >= 0.65).float().mean() >= 0.97


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_size_has_no_effect_even_in_float32(scale):
    x = torch.randn(2, 6, 4)
    torch.testing.assert_close(orthogonalize(x * scale), orthogonalize(x), rtol=1e-4, atol=1e-5)


def test_zero_and_rank_one():
    assert torch.equal(orthogonalize(torch.zeros(3, 4)), torch.zeros(3, 4))
    rank_one = torch.outer(torch.randn(5).double(), torch.randn(4).double())
    values = torch.linalg.svdvals(orthogonalize(rank_one))
    assert 0.65 < values[0] < 1.25
    assert values[1] < 1e-12


def test_half_precision_is_computed_in_float32():
    x = torch.randn(4, 6, dtype=torch.bfloat16)
    assert torch.equal(orthogonalize(x), orthogonalize(x.float()).bfloat16())


@pytest.mark.parametrize("nesterov", [True, False])
def test_the_rule_is_a_literal_muon(nesterov):
    """[NL eq. 52]: momentum, look-ahead, Newton-Schulz and size written out, 30 steps in float64."""
    weights, slots = torch.ones(4, 7, dtype=torch.float64), {}
    expected, m = weights.clone(), torch.zeros(4, 7, dtype=torch.float64)
    for grad in torch.randn(30, 4, 7, dtype=torch.float64):
        weights, slots = newton_schulz(weights, grad, None, slots, eta=0.02, nesterov=nesterov)
        m = 0.95 * m + 0.05 * grad
        expected = expected - 0.02 * 0.2 * 7**0.5 * literal(0.05 * grad + 0.95 * m if nesterov else m)
    torch.testing.assert_close(weights, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("shape", [(16, 24), (24, 16)])
def test_the_numbers_are_those_of_torch(shape):
    """The change over 50 steps on a quadratic points where torch.optim.Muon goes, up to its bfloat16."""
    start, target = torch.randn(shape), torch.randn(shape)
    scale = torch.linspace(0.1, 2, shape[1])
    parameter = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.Muon([parameter], lr=0.02, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    weights, slots = start, {}
    for _ in range(50):
        parameter.grad = scale * (parameter.detach() - target)
        optimizer.step()
        weights, slots = newton_schulz(weights, scale * (weights - target), None, slots, eta=0.02)
    ours, theirs = weights - start, parameter.detach() - start
    assert torch.cosine_similarity(ours.flatten(), theirs.flatten(), 0) > 0.9999
    assert (ours - theirs).norm() < 0.02 * theirs.norm()


def test_its_momentum_is_a_linear_memory_under_a_non_linear_output():
    """[NL eq. 52]: without Newton-Schulz steps the direction is the normalised momentum."""
    grads = torch.randn(5, 3, 4, dtype=torch.float64)
    weights, slots, m = torch.zeros(3, 4, dtype=torch.float64), {}, torch.zeros(3, 4, dtype=torch.float64)
    for grad in grads:
        before = weights
        weights, slots = newton_schulz(weights, grad, None, slots, eta=1.0, beta=0.8, ns_steps=0, nesterov=False)
        m = 0.8 * m + 0.2 * grad
        torch.testing.assert_close(before - weights, 0.2 * 2 * m / m.norm(), rtol=1e-12, atol=1e-13)


def test_it_computes_in_another_type_when_asked():
    """The literal steps in bfloat16, from the float32 matrix of norm 1; up to how its products are summed."""
    x = torch.randn(12, 20)
    got = orthogonalize(x, dtype=torch.bfloat16)
    expected = (x / x.norm()).bfloat16()
    for _ in range(5):
        gram = expected @ expected.mT
        expected = 3.4445 * expected + (-4.7750 * gram + 2.0315 * gram @ gram) @ expected
    assert got.dtype == torch.float32
    assert torch.equal(got, got.bfloat16().float())
    torch.testing.assert_close(got, expected.float(), rtol=0.03, atol=0.01)
    assert (got - orthogonalize(x)).norm() < 0.05 * got.norm()
    weights = newton_schulz(torch.zeros(12, 20), x, None, {}, eta=1.0, ns_dtype=torch.bfloat16)[0]
    assert torch.equal(weights, -0.2 * 20**0.5 * orthogonalize(0.05 * x + 0.95 * (0.05 * x), dtype=torch.bfloat16))
