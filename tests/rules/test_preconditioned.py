"""Preconditioned momentum against hand and literal writings, float64.  [NL eq. 46-47]"""

import torch

from everlearn.rules import momentum, preconditioned


def test_two_steps_by_hand():
    """[NL eq. 46-47]: g = 3 then 4, beta 1/2, beta2 1/2, eps 0.

    v: 9, then (9 + 2 * 16) / 3 = 41/3 after correction; u: 1, then 4 / sqrt(41/3); m: u1, then (u1 + 2 u2) / 3.
    """
    settings = {"eta": 1.0, "beta": 0.5, "beta2": 0.5, "eps": 0.0}
    weights, slots = preconditioned(torch.zeros(1).double(), torch.tensor([3.0]).double(), None, {}, **settings)
    assert weights.tolist() == [-1.0]
    weights, _ = preconditioned(weights, torch.tensor([4.0]).double(), None, slots, **settings)
    second = 4 / (41 / 3) ** 0.5
    torch.testing.assert_close(
        weights, torch.tensor([-1 - (1 + 2 * second) / 3], dtype=torch.float64), rtol=1e-14, atol=0
    )


def test_many_steps_equal_a_literal_sum():
    """[NL eq. 47]: m is the weighted mean of P_i g_i, each with the P of its own step."""
    beta, beta2, eps = 0.8, 0.95, 1e-3
    grads = torch.randn(12, 3, 4, dtype=torch.float64)
    weights, slots = torch.zeros(3, 4, dtype=torch.float64), {}
    for grad in grads:
        before = weights
        weights, slots = preconditioned(weights, grad, None, slots, eta=1.0, beta=beta, beta2=beta2, eps=eps)
    scaled = []
    for t in range(1, 13):
        w = torch.tensor([beta2 ** (t - i) for i in range(1, t + 1)], dtype=torch.float64)
        v = torch.einsum("t,tij->ij", w / w.sum(), grads[:t] ** 2)
        scaled.append(grads[t - 1] / (v.sqrt() + eps))
    w = torch.tensor([beta ** (12 - i) for i in range(1, 13)], dtype=torch.float64)
    expected = torch.einsum("t,tij->ij", w / w.sum(), torch.stack(scaled))
    torch.testing.assert_close(before - weights, expected, rtol=1e-12, atol=1e-13)


def test_a_constant_preconditioner_only_rescales_momentum():
    grads = torch.randn(6, 3, 4, dtype=torch.float64)
    scale = torch.rand(3, 4, dtype=torch.float64)
    one, two, slots_one, slots_two = torch.zeros_like(scale), torch.zeros_like(scale), {}, {}
    for grad in grads:
        one, slots_one = preconditioned(one, grad, None, slots_one, eta=0.1, precondition=lambda g: scale * g)
        two, slots_two = momentum(two, grad, None, slots_two, eta=0.1)
    assert set(slots_one) == {"m", "mass"}
    torch.testing.assert_close(one, scale * two, rtol=1e-13, atol=1e-14)
