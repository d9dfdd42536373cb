"""Delta gradient descent: the problem that it solves, its derivation, and its fixed points.  [NL eq. 56-57, 113-121]"""

import pytest
import torch

from everlearn.rules import dgd, gd

OUT, IN = 3, 5


def problem(keys):
    """Return weights, keys, errors of the layer's output, and the gradient that they make, float64."""
    W, X, E = (torch.randn(shape, dtype=torch.float64) for shape in ((OUT, IN), (keys, IN), (keys, OUT)))
    return W, X, E, E.mT @ X


@pytest.mark.parametrize("keys", [1, 4, 5, 9])
def test_it_minimises_the_objective(keys):
    """[NL eq. 56]: sum |W x + e|^2 / 2 + |W - W_0|^2 / (2 eta), solved as one least-squares problem."""
    W, X, E, grad = problem(keys)
    eta = 0.7
    rows = torch.cat([X, torch.eye(IN).double() / eta**0.5])
    wanted = torch.cat([-E, W.mT / eta**0.5])
    expected = torch.linalg.lstsq(rows, wanted).solution.mT
    torch.testing.assert_close(dgd(W, grad, X, {}, eta=eta)[0], expected, rtol=1e-12, atol=1e-12)


def test_one_key_follows_the_derivation():
    """[NL eq. 57, 113-121]: zero gradient, then Sherman-Morrison, then W (I - eta' x x^T) - eta' e x^T."""
    W, X, E, grad = problem(1)
    x, e, eta, eye = X[0], E[0], 0.7, torch.eye(IN).double()
    new = dgd(W, grad, x, {}, eta=eta)[0]
    stationary = torch.outer(new @ x + e, x) + (new - W) / eta
    assert stationary.abs().max() < 1e-13
    step = eta / (1 + eta * x @ x)
    inverse = eye - step * torch.outer(x, x)
    torch.testing.assert_close(inverse @ (eye + eta * torch.outer(x, x)), eye, rtol=0, atol=1e-13)
    torch.testing.assert_close(new, W @ inverse - step * torch.outer(e, x), rtol=1e-12, atol=1e-13)


def test_the_printed_step_size_needs_keys_of_norm_one():
    """[NL eq. 57]: eta' = eta / (1 + eta) is exact for |x| = 1 and wrong for others."""
    W, X, E, _ = problem(1)
    eta = 0.7

    def printed(x):
        step = eta / (1 + eta)
        return W - step * torch.outer(W @ x, x) - step * torch.outer(E[0], x)

    short = X[0] / X[0].norm()
    torch.testing.assert_close(dgd(W, torch.outer(E[0], short), short, {}, eta=eta)[0], printed(short))
    assert (dgd(W, torch.outer(E[0], X[0]), X[0], {}, eta=eta)[0] - printed(X[0])).abs().max() > 0.1


@pytest.mark.parametrize("rho", [1.0, 3.0])
def test_it_is_gradient_descent_on_a_penalised_loss(rho):
    """[NL eq. 56-57]: gd with eta' on L(W x) + rho/2 |W x|^2; for a block the step is multiplied by the inverse."""
    W, X, _, _ = problem(4)
    eta = 0.4

    def loss(W, X):
        return torch.tanh(X @ W.mT).square().sum()

    def penalised(W, X):
        return loss(W, X) + rho / 2 * (X @ W.mT).square().sum()

    x = X[:1]
    step = eta / (1 + eta * rho * x.square().sum())
    expected = gd(W, torch.func.grad(penalised)(W, x), None, {}, eta=step)[0]
    got = dgd(W, torch.func.grad(loss)(W, x), x, {}, eta=eta, rho=rho)[0]
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-13)
    inverse = torch.linalg.inv(torch.eye(IN).double() + eta * rho * X.mT @ X)
    expected = W - eta * torch.func.grad(penalised)(W, X) @ inverse
    got = dgd(W, torch.func.grad(loss)(W, X), X, {}, eta=eta, rho=rho)[0]
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("objective", "recalled"),
    [(lambda W, k, v: -v @ (W @ k), 1.0), (lambda W, k, v: (W @ k - v).square().sum() / 2, 0.5)],
    ids=["dot", "l2"],
)
def test_what_a_repeated_write_recalls(objective, recalled):
    """With the dot product it recalls v, with L2 it decays twice and recalls v / 2."""
    W, X, E, _ = problem(1)
    k, v = X[0], E[0]
    for _ in range(300):
        W, _ = dgd(W, torch.func.grad(objective)(W, k, v), k, {}, eta=0.5)
    torch.testing.assert_close(W @ k, recalled * v, rtol=1e-9, atol=1e-9)


def test_without_decay_it_is_gd():
    W, X, _, grad = problem(3)
    for keys in (X, torch.cat([X, X])):
        torch.testing.assert_close(dgd(W, grad, keys, {}, eta=0.3, rho=0.0)[0], gd(W, grad, None, {}, eta=0.3)[0])
