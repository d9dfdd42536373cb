"""Delta momentum: by hand, against its objective, and where it must be plain momentum.  [NL eq. 48-49, 51]"""

import pytest
import torch

from everlearn.rules import delta_momentum, delta_momentum_matrix, delta_momentum_printed, momentum


def run(rule, grads, **settings):
    weights, slots = torch.zeros_like(grads[0]), {}
    for grad in grads:
        weights, slots = rule(weights, grad, None, slots, **settings)
    return weights, slots


def test_the_gate_by_hand():
    """[NL eq. 48-49] gated, beta 1/2, gamma 1/4, eta 1: m1 = (1, 1); then g = (-4, 0), k = (-1, 0), <m, k> = -1.

    m2 = (1/2, 1/2) - 1/4 * (-1) * (-1, 0) + (-2, 0) = (-7/4, 1/2); mass 3/4, so the step is (-7/3, 2/3).
    """
    settings = {"eta": 1.0, "beta": 0.5, "gamma": 0.25}
    weights, slots = delta_momentum(torch.zeros(1, 2), torch.tensor([[2.0, 2.0]]), None, {}, **settings)
    assert weights.tolist() == [[-2.0, -2.0]]
    weights, slots = delta_momentum(weights, torch.tensor([[-4.0, 0.0]]), None, slots, **settings)
    assert slots["m"].tolist() == [[-1.75, 0.5]]
    torch.testing.assert_close(weights, torch.tensor([[-2 + 7 / 3, -2 - 2 / 3]]))


def test_the_matrix_form_by_hand():
    """[NL eq. 49]: m = I after a step of 2 I at beta 1/2; then g = (3, 4; 0, 0), k^T k = ((.36, .48), (.48, .64)).

    m2 = 1/2 I - 1/2 k^T k + g / 2 = ((1.82, 1.76), (-.24, .18)); mass 3/4.
    """
    eye, grad = torch.eye(2).double(), torch.tensor([[3.0, 4.0], [0.0, 0.0]]).double()
    settings = {"eta": 0.75, "beta": 0.5, "gamma": 0.5}
    _, slots = delta_momentum_matrix(0 * eye, 2 * eye, None, {}, **settings)
    weights, slots = delta_momentum_matrix(0 * eye, grad, None, slots, **settings)
    expected = torch.tensor([[1.82, 1.76], [-0.24, 0.18]]).double()
    torch.testing.assert_close(slots["m"], expected)
    torch.testing.assert_close(weights, -expected)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4,), (2, 3, 4)])
def test_the_matrix_form_is_its_equation(shape):
    """[NL eq. 49] with explicit identity matrices, wide, tall, a vector as one row, and a batch."""
    grads, beta, gamma = torch.randn(6, *shape, dtype=torch.float64), 0.9, 0.4
    _, slots = run(delta_momentum_matrix, grads, eta=0.1, beta=beta, gamma=gamma)
    rows = grads.reshape(6, -1, *(shape if len(shape) > 1 else (1, *shape))[-2:])
    for b in range(rows.shape[1]):
        m = torch.zeros_like(rows[0, b])
        for g in rows[:, b]:
            k = g / g.norm()
            m = m @ (beta * torch.eye(shape[-1]).double() - gamma * k.mT @ k) + (1 - beta) * g
        torch.testing.assert_close(slots["m"].reshape(rows.shape[1:])[b], m, rtol=1e-12, atol=1e-13)


def test_the_printed_form_is_gradient_descent_on_its_objective():
    """[NL eq. 48-49]: alpha m - eta d/dm |m g^T - P|^2 / 2, with a P that mixes the outputs."""
    grads, alpha, eta = 0.3 * torch.randn(5, 3, 4, dtype=torch.float64), 0.9, 0.2
    P = torch.randn(3, 3, dtype=torch.float64)
    with pytest.warns(UserWarning, match="use delta_momentum"):
        weights, slots = run(delta_momentum_printed, grads, eta=eta, alpha=alpha, precondition=lambda g: P @ g)
    m, expected = torch.zeros(3, 4, dtype=torch.float64), torch.zeros(3, 4, dtype=torch.float64)
    for g in grads:
        slope = torch.func.grad(lambda m, g=g: (m @ g.mT - P).square().sum() / 2)(m)
        m = alpha * m - eta * slope
        expected = expected - m
    torch.testing.assert_close(slots["m"], m, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(weights, expected, rtol=1e-12, atol=1e-13)


def test_the_printed_form_overflows_where_the_others_do_not():
    """[NL eq. 48-49]: a gradient with largest singular value 4, eta .3, where eta * 16 > 1 + alpha."""
    g = torch.randn(16, 16, dtype=torch.float64)
    grads = (4 * g / torch.linalg.matrix_norm(g, 2)).expand(400, 16, 16)
    with pytest.warns(UserWarning):
        assert run(delta_momentum_printed, grads, eta=0.3)[1]["m"].abs().max() > 1e100
    for rule in (delta_momentum, delta_momentum_matrix):
        assert run(rule, grads, eta=0.3)[1]["m"].abs().max() < 4


def test_while_gradients_agree_the_gate_is_momentum():
    """Positive gradients never contradict a positive momentum; without gamma no form forgets."""
    grads = torch.rand(8, 3, 4, dtype=torch.float64)
    plain = run(momentum, grads, eta=0.1, beta=0.9)
    gated = run(delta_momentum, grads, eta=0.1, beta=0.9)
    assert torch.equal(plain[0], gated[0])
    assert torch.equal(plain[1]["m"], gated[1]["m"])
    grads = torch.randn(8, 3, 4, dtype=torch.float64)
    plain = run(momentum, grads, eta=0.1, beta=0.9)[0]
    for rule in (delta_momentum, delta_momentum_matrix):
        torch.testing.assert_close(run(rule, grads, eta=0.1, beta=0.9, gamma=0.0)[0], plain, rtol=1e-12, atol=1e-14)
        assert (run(rule, grads, eta=0.1, beta=0.9, gamma=0.5)[0] - plain).abs().max() > 1e-3


@pytest.mark.parametrize("rule", [delta_momentum, delta_momentum_matrix])
def test_the_feature_map_forms_the_key_and_only_the_key(rule):
    """[NL eq. 51]: with phi = sign the key of (-4, 3) is (-1, 1) / sqrt(2), by hand; u itself is not mapped."""
    settings = {"eta": 1.0, "beta": 0.5, "gamma": 0.5, "feature_map": torch.sign, "precondition": lambda g: 2 * g}
    slots = {"m": torch.tensor([[4.0, 0.0]]).double(), "mass": torch.ones(1, 1).double()}
    _, slots = rule(torch.zeros(1, 2).double(), torch.tensor([[-2.0, 1.5]]).double(), None, slots, **settings)
    # <m, k> k = -4 / sqrt(2) k = (2, -2), half of it removed; plus (1 - 1/2) (-4, 3)
    torch.testing.assert_close(slots["m"], torch.tensor([[2.0 - 1 - 2, 0 + 1 + 1.5]]).double())


def test_a_contradicted_momentum_turns_faster():
    """On f = 10 x^2 / 2 + y^2 / 2 with beta .99 the gate needs at most half of momentum's steps to reach 1e-6."""
    scale = torch.tensor([10.0, 1.0], dtype=torch.float64)

    def steps(rule):
        weights, slots = torch.tensor([3.0, 3.0], dtype=torch.float64), {}
        for step in range(5000):
            if (scale * weights**2).sum() / 2 < 1e-6:
                return step
            weights, slots = rule(weights, scale * weights, None, slots, eta=0.3, beta=0.99)
        return 5000

    assert steps(delta_momentum) <= steps(momentum) / 2
