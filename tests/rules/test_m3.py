"""M3: a literal writing of the algorithm, and where it must be Muon.  [NL alg. 1, eq. 75]"""

import pytest
import torch

from everlearn.rules import m3, newton_schulz, orthogonalize

GRADS = 23


def run(grads, **settings):
    weights, slots = torch.ones_like(grads[0]), {}
    for grad in grads:
        weights, slots = m3(weights, grad, None, slots, eta=0.02, **settings)
    return weights, slots


@pytest.mark.parametrize("shape", [(4, 6), (6, 4)])
def test_the_rule_is_its_algorithm(shape):
    """[NL alg. 1, eq. 75] with averages: two loops over slow periods and steps, gradients kept in a list."""
    grads = torch.randn(GRADS, *shape, dtype=torch.float64)
    f, alpha, eta = 5, 0.4, 0.02
    W, m, s = (torch.zeros(shape, dtype=torch.float64) + x for x in (1, 0, 0))
    seconds = []
    for start in range(0, GRADS, f):
        slow_step = orthogonalize(s)
        for grad in grads[start : start + f]:
            m = 0.95 * m + 0.05 * grad
            step = orthogonalize(0.05 * grad + 0.95 * m) + alpha * slow_step
            seconds.append(step**2)
            w = torch.tensor([0.9 ** (len(seconds) - 1 - i) for i in range(len(seconds))], dtype=torch.float64)
            v = torch.einsum("t,tij->ij", w / w.sum(), torch.stack(seconds))
            z = step / (v.sqrt() + 1e-8)
            W = W - eta * 0.2 * 24**0.5 * z / z.norm()
        s = 0.8 * s + 0.2 * grads[start : start + f].mean(0)
    got, _ = run(grads, alpha=alpha, beta_slow=0.8, beta2=0.9, slow_period=f)
    torch.testing.assert_close(got, W, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_slow_memory_and_second_moment_it_is_muon(dtype):
    grads = torch.randn(GRADS, 2, 4, 6, dtype=dtype)
    weights, slots = torch.ones(2, 4, 6, dtype=dtype), {}
    for grad in grads:
        weights, slots = newton_schulz(weights, grad, None, slots, eta=0.02)
    assert torch.equal(run(grads, alpha=0.0, second_moment=False)[0], weights)
    assert not torch.equal(run(grads, alpha=0.1, second_moment=False)[0], weights)


def test_the_slow_memory_is_silent_in_its_first_period():
    grads = torch.randn(11, 4, 6, dtype=torch.float64)
    for count, same in ((10, True), (11, False)):
        assert torch.equal(run(grads[:count])[0], run(grads[:count], alpha=0.0)[0]) == same


def test_the_slow_average_holds_the_mean_of_each_period():
    """Two periods worked out: .8 of the first mean's .2, and .2 of the second."""
    grads = torch.randn(6, 4, 6, dtype=torch.float64)
    _, slots = run(grads, slow_period=3, beta_slow=0.8)
    expected = 0.8 * 0.2 * grads[:3].mean(0) + 0.2 * grads[3:].mean(0)
    torch.testing.assert_close(slots["slow"], expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("cut", [1, 4, 9, 10, 11, 19, 22])
def test_a_resume_between_two_refreshes_changes_no_bit(cut):
    grads = torch.randn(GRADS, 4, 6)
    weights, slots = run(grads[:cut])
    slots = {name: slot.clone() for name, slot in slots.items()}
    for grad in grads[cut:]:
        weights, slots = m3(weights, grad, None, slots, eta=0.02)
    expected = run(grads)
    assert torch.equal(weights, expected[0])
    assert all(torch.equal(slots[name], expected[1][name]) for name in expected[1])


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_size_of_the_gradients_has_no_effect(scale):
    """Within 1e-4 in float32; the printed sums would shrink or stretch the move with the gradients."""
    grads = torch.randn(GRADS, 6, 8)
    start = torch.ones(6, 8)
    move, scaled = run(grads)[0] - start, run(grads * scale)[0] - start
    assert (move - scaled).norm() < 1e-4 * move.norm()


def test_the_step_does_not_shrink_with_time():
    """Root mean square .2 eta at step 10 and at step 1000, gradients of one size; the printed sums lose 280 times."""
    weights, slots = torch.zeros(4, 6), {}
    sizes = {}
    for step, grad in enumerate(torch.randn(1000, 4, 6), 1):
        before = weights
        weights, slots = m3(weights, grad, None, slots, eta=1e-3)
        sizes[step] = (weights - before).square().mean().sqrt().item()
    assert sizes[10] == pytest.approx(2e-4, rel=1e-3)
    assert sizes[1000] == pytest.approx(2e-4, rel=1e-3)


def test_rows_may_refresh_at_different_times():
    """Two matrices, one of which began three steps earlier, equal each alone."""
    grads = torch.randn(GRADS, 2, 4, 6, dtype=torch.float64)
    weights, slots = torch.zeros(2, 4, 6, dtype=torch.float64), {}
    for step, grad in enumerate(grads):
        new, after = m3(weights, grad, None, slots, eta=0.02, slow_period=4)
        begun = torch.tensor([True, step >= 3]).reshape(2, 1, 1)
        weights = torch.where(begun, new, weights)
        slots = {name: torch.where(begun, slot, slots.get(name, torch.zeros(()))) for name, slot in after.items()}
    for row, start in ((0, 0), (1, 3)):
        alone, own = torch.zeros(4, 6, dtype=torch.float64), {}
        for grad in grads[start:, row]:
            alone, own = m3(alone, grad, None, own, eta=0.02, slow_period=4)
        torch.testing.assert_close(weights[row], alone, rtol=1e-12, atol=1e-13)
