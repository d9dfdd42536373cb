"""Where an optimizer must be another one, what its options do, and what it refuses.

[NL eq. 42-44, 46-52, 75, alg. 1]
"""

import pytest
import torch
from torch import nn

from everlearn import optim
from everlearn.levels import describe
from everlearn.rules import (
    deep_momentum,
    delta_momentum,
    delta_momentum_matrix,
    delta_momentum_printed,
    m3,
    momentum,
    newton_schulz,
    preconditioned,
)


def run(make, grads, start=None):
    weight = nn.Parameter(torch.ones_like(grads[0]) if start is None else start.clone())
    optimizer = make([weight])
    for grad in grads:
        weight.grad = grad.clone()
        optimizer.step()
    return weight.detach(), optimizer


def gradients(count=25, shape=(16, 24), dtype=torch.float64):
    torch.manual_seed(4)
    return list(torch.randn(count, *shape, dtype=dtype))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_an_elementwise_group_is_torchs_adamw_bit_for_bit(decay):
    """Matrices with decay and vectors without, rates and betas of their own, complex numbers, under a schedule."""
    torch.manual_seed(5)
    shapes = [(3, 4), (5,), (2, 3, 4)]
    ours = [nn.Parameter(torch.randn(s)) for s in shapes] + [nn.Parameter(torch.randn(2, 2, dtype=torch.complex64))]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    flat = [p for p in theirs if p.ndim == 1]
    other = torch.optim.AdamW(
        [{"params": [p for p in theirs if p.ndim > 1]}, {"params": flat, "weight_decay": 0.0}],
        lr=0.03,
        betas=(0.8, 0.95),
        eps=1e-6,
        weight_decay=decay,
    )
    group = {"params": ours, "elementwise": True, "lr": 0.03, "betas": (0.8, 0.95), "eps": 1e-6}
    own = optim.Muon([group], lr=1.0, weight_decay=decay)
    schedules = [torch.optim.lr_scheduler.ExponentialLR(one, 0.9) for one in (own, other)]
    for _ in range(12):
        for mine, yours in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            yours.grad = mine.grad.clone()
        own.step()
        other.step()
        for schedule in schedules:
            schedule.step()
    assert all(torch.equal(mine, yours) for mine, yours in zip(ours, theirs, strict=True))


def test_an_elementwise_group_starts_from_torchs_settings():
    weight = nn.Parameter(torch.ones(2))
    group = optim.M3([{"params": [weight], "elementwise": True}]).param_groups[0]
    other = torch.optim.AdamW([weight]).param_groups[0]
    assert (group["betas"], group["eps"]) == (other["betas"], other["eps"])
    assert "alpha" not in group
    (first, second) = (c for c in describe(nn.ParameterList([weight]), optim.M3([group])).components if c.is_memory)
    assert (first.objective, first.rule, second.name) == ("L2 |m - g|^2", "gd, step 0.1", "M3.exp_avg_sq")


def test_muon_goes_where_torchs_goes():
    """[NL eq. 52]: 50 steps on a quadratic, up to torch's bfloat16; with decoupled decay."""
    torch.manual_seed(6)
    start, target = torch.randn(16, 24), torch.randn(16, 24)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    settings = {"lr": 0.02, "weight_decay": 0.1}
    one, two = optim.Muon([ours], **settings), torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **settings)
    for _ in range(50):
        for weight, optimizer in ((ours, one), (theirs, two)):
            weight.grad = torch.linspace(0.1, 2, 24) * (weight.detach() - target)
            optimizer.step()
    moves = (ours - start).detach().flatten(), (theirs - start).detach().flatten()
    assert torch.cosine_similarity(*moves, 0) > 0.9999
    assert (moves[0] - moves[1]).norm() < 0.02 * moves[1].norm()


@pytest.mark.parametrize("make", [optim.Muon, optim.M3])
def test_newton_schulz_may_run_in_bfloat16(make, tmp_path):
    """It points where float32 points, and the type is saved with the group, in a file that runs no code."""
    grads = gradients(12, dtype=torch.float32)
    start = torch.zeros_like(grads[0])
    plain, _ = run(make, grads, start)
    short, optimizer = run(lambda w: make(w, ns_dtype=torch.bfloat16), grads, start)
    assert not torch.equal(plain, short)
    assert torch.cosine_similarity(plain.flatten(), short.flatten(), 0) > 0.999
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    other = make([nn.Parameter(start.clone())])
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert other.param_groups[0]["ns_dtype"] is torch.bfloat16


def test_m3_without_its_two_additions_is_muon():
    """[NL alg. 1, eq. 75]: difference 0.0, and nothing slow is kept."""
    grads = gradients()
    plain, optimizer = run(lambda w: optim.M3(w, 0.02, alpha=0.0, second_moment=False), grads)
    expected, _ = run(lambda w: optim.Muon(w, 0.02), grads)
    assert torch.equal(plain, expected)
    (slots,) = optimizer.state.values()
    assert set(slots) == {"m"}


def test_m3_keeps_sixteen_bytes_for_each_number():
    _, optimizer = run(optim.M3, gradients(12, (64, 64), torch.float32))
    (slots,) = optimizer.state.values()
    assert sum(slot.nbytes for slot in slots.values()) <= 16 * 64 * 64 + 64


def test_a_deep_momentum_whose_network_rests_is_adam():
    """[NL eq. 50]: bit for bit, with torch's AdamW to the rounding of its bias corrections."""
    grads = gradients()
    frozen, _ = run(lambda w: optim.DeepMomentum(w, 0.02, eta_inner=0.0), grads)
    adam, _ = run(lambda w: optim.DeepMomentum([{"params": w, "elementwise": True}], 0.02), grads)
    learning, _ = run(lambda w: optim.DeepMomentum(w, 0.02), grads)
    torch.testing.assert_close(frozen, adam, rtol=1e-12, atol=1e-13)
    assert (learning - adam).abs().max() > 1e-6


def test_gradients_that_agree_make_delta_momentum_plain():
    """[NL eq. 48-49]: nothing is contradicted, so nothing is forgotten on top; one that points back is."""
    grad = gradients(1)[0]
    one, _ = run(lambda w: optim.DeltaMomentum(w, 0.1, beta=0.9), [grad] * 6)
    two, _ = run(lambda w: optim.Momentum(w, 0.1), [grad] * 6)
    assert torch.equal(one, two)
    one, _ = run(lambda w: optim.DeltaMomentum(w, 0.1, beta=0.9), [grad, -grad])
    two, _ = run(lambda w: optim.Momentum(w, 0.1), [grad, -grad])
    assert (one - two).abs().max() > 1e-3


def test_the_forms_of_delta_momentum_have_defaults_of_their_own():
    weight = [nn.Parameter(torch.ones(2, 2))]
    forms = {None: (0.95, 0.9), delta_momentum_matrix: (0.9, 0.3), delta_momentum_printed: (0.9, None)}
    for form, expected in forms.items():
        group = optim.DeltaMomentum(weight, **({"form": form} if form else {})).param_groups[0]
        assert (group["beta"], group["gamma"]) == expected


def test_the_printed_delta_momentum_warns_and_is_the_printed_line():
    """[NL eq. 48-49]: m (beta I - eta g^T g) + eta g for two steps, worked out with explicit matrices."""
    a, b = (0.1 * grad for grad in gradients(2, (3, 4)))
    with pytest.warns(UserWarning, match="overflows on gradients of ordinary size"):
        got, _ = run(lambda w: optim.DeltaMomentum(w, 0.5, beta=0.8, form=delta_momentum_printed), [a, b])
    first = 0.5 * a
    second = first @ (0.8 * torch.eye(4, dtype=torch.float64) - 0.5 * b.mT @ b) + 0.5 * b
    torch.testing.assert_close(got, 1 - first - second, rtol=1e-12, atol=1e-13)


def test_maps_of_the_gradient_are_passed_on():
    """[NL eq. 46-47, 51]: P = 2 doubles the step; a key of signs forgets something else than the gradient."""
    grads = gradients(6)
    plain, _ = run(lambda w: optim.DeltaMomentum(w, 0.1), grads)
    doubled, _ = run(lambda w: optim.DeltaMomentum(w, 0.1, precondition=lambda g: 2 * g), grads)
    signs, _ = run(lambda w: optim.DeltaMomentum(w, 0.1, feature_map=torch.sign), grads)
    torch.testing.assert_close(doubled - 1, 2 * (plain - 1), rtol=1e-12, atol=1e-13)
    assert (signs - plain).abs().max() > 1e-6


def test_a_schedule_of_alpha_is_asked_before_every_step_and_a_number_goes_before_it():
    grads, shares = gradients(12), [0.0, 0.0, 0.1, 0.2, 0.3, 0.3, 0.3, 0.3, 0.0, 0.0, 0.2, 0.2]
    got, _ = run(lambda w: optim.M3(w, 0.02, alpha=lambda step: shares[step], slow_period=2), grads)
    expected, slots = torch.ones(16, 24, dtype=torch.float64), {}
    for alpha, grad in zip(shares, grads, strict=True):
        expected, slots = m3(expected, grad, None, slots, eta=0.02, alpha=alpha, slow_period=2)
        assert ("slow" in slots) == (alpha > 0)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-13)

    def fixed(weight):
        optimizer = optim.M3(weight, 0.02, alpha=lambda step: 0.0, slow_period=2)
        optimizer.param_groups[0]["alpha"] = 0.3
        return optimizer

    assert torch.equal(run(fixed, grads)[0], run(lambda w: optim.M3(w, 0.02, slow_period=2), grads)[0])


def test_a_state_saved_under_a_schedule_needs_one():
    weight = nn.Parameter(torch.ones(2, 2))
    state = optim.M3([weight], alpha=lambda step: 0.1).state_dict()
    other = optim.M3([weight])
    other.load_state_dict(state)
    weight.grad = torch.ones(2, 2)
    with pytest.raises(ValueError, match=r"no alpha, and M3 was built without a schedule.*build it with the alpha"):
        other.step()
    assert torch.equal(weight.detach(), torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"alpha is -1.0; it must be a finite number >= 0"):
        optim.M3([weight], alpha=lambda step: -1.0)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_move_of_m3_does_not_depend_on_the_size_of_the_gradients(scale):
    grads = gradients(dtype=torch.float32)
    start = torch.zeros_like(grads[0])
    one, _ = run(optim.M3, grads, start)
    two, _ = run(optim.M3, [scale * grad for grad in grads], start)
    assert (one - two).norm() < 1e-4 * one.norm()


def test_a_step_of_m3_keeps_its_size():
    """[NL alg. 1]: root mean square within 10 % at steps 10 and 1000; with the printed sums it shrinks 280 times."""
    weight = nn.Parameter(torch.zeros(6, 8))
    optimizer, sizes = optim.M3([weight], 1e-3), {}
    for step, grad in enumerate(torch.randn(1000, 6, 8), 1):
        before = weight.detach().clone()
        weight.grad = grad
        optimizer.step()
        sizes[step] = (weight.detach() - before).square().mean().sqrt().item()
    assert sizes[1000] == pytest.approx(sizes[10], rel=0.1)


def test_options_are_read_from_the_group_at_every_step():
    """[NL eq. 10-13, 33]: a beta that a schedule changes, as the rule with those numbers."""
    grads = gradients(5, (2, 3))
    weight = nn.Parameter(torch.ones(2, 3, dtype=torch.float64))
    optimizer = optim.Momentum([weight], 0.1)
    expected, slots = weight.detach().clone(), {}
    for grad, beta in zip(grads, (0.9, 0.5, 0.0, 0.7, 0.99), strict=True):
        optimizer.param_groups[0]["beta"] = beta
        weight.grad = grad.clone()
        optimizer.step()
        expected, slots = momentum(expected, grad, None, slots, eta=0.1, beta=beta)
    assert torch.equal(weight.detach(), expected)


OPTIONS = {
    optim.Momentum: (momentum, {"beta": 0.7, "average": False}),
    optim.PreconditionedMomentum: (preconditioned, {"beta": 0.7, "beta2": 0.8, "eps": 0.01}),
    optim.DeltaMomentum: (delta_momentum, {"beta": 0.7, "gamma": 0.6}),
    optim.DeepMomentum: (
        deep_momentum,
        {"beta": 0.7, "beta_slow": 0.8, "beta2": 0.9, "eps": 0.01, "eta_inner": 0.1, "samples": 5},
    ),
    optim.Muon: (newton_schulz, {"beta": 0.7, "ns_steps": 3, "nesterov": False, "ns_dtype": torch.bfloat16}),
    optim.M3: (
        m3,
        {
            "alpha": 0.5,
            "beta": 0.7,
            "beta_slow": 0.6,
            "beta2": 0.8,
            "slow_period": 3,
            "ns_steps": 3,
            "eps": 0.01,
            "ns_dtype": torch.bfloat16,
        },
    ),
}


@pytest.mark.parametrize("kind", OPTIONS, ids=lambda kind: kind.__name__)
def test_every_option_reaches_the_rule(kind):
    """All at once equal the rule with them, bit for bit; each one alone makes a difference."""
    rule, options = OPTIONS[kind]
    grads = gradients(8, (4, 6))

    def by_rule(**settings):
        weights, slots = torch.ones(4, 6, dtype=torch.float64), {}
        for grad in grads:
            weights, slots = rule(weights, grad, None, slots, eta=0.02, **settings)
        return weights

    expected = by_rule(**options)
    assert torch.equal(run(lambda w: kind(w, 0.02, **options), grads)[0], expected)
    for left_out in options:
        assert not torch.equal(by_rule(**{name: v for name, v in options.items() if name != left_out}), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda w: optim.Momentum(w, beta=1.0), r"beta is 1.0; it must be in \[0, 1\); try 0.9"),
        (lambda w: optim.M3(w, beta_slow=-0.1), r"beta_slow is -0.1; it must be in \[0, 1\)"),
        (lambda w: optim.M3(w, slow_period=0), r"slow_period is 0; it must be a whole number >= 1; try 10"),
        (lambda w: optim.Muon(w, ns_steps=2.5), r"ns_steps is 2.5; it must be a whole number >= 1"),
        (lambda w: optim.Muon(w, weight_decay=-1.0), r"weight_decay is -1.0; it must be a finite number >= 0"),
        (lambda w: optim.Muon(w, lr=float("inf")), r"lr is inf"),
        (lambda w: optim.DeltaMomentum(w, beta=0.5, gamma=0.6), r"gamma 0.6 is above beta 0.5.*lower gamma"),
        (lambda w: optim.DeltaMomentum(w, form=delta_momentum_printed, gamma=0.1), r"got gamma 0.1 or a feature map"),
        (
            lambda w: optim.M3([{"params": w, "elementwise": True, "betas": (0.9, 1.0)}]),
            r"betas are \(0.9, 1.0\); both must be in \[0, 1\)",
        ),
        (
            lambda w: optim.M3([{"params": w, "elementwise": True, "betas": (0.9,)}]),
            r"betas are \(0.9,\); both must be in \[0, 1\)",
        ),
    ],
)
def test_options_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make([nn.Parameter(torch.ones(2, 2))])


def test_a_parameter_without_a_gradient_waits():
    """Two of one shape, one of which joins later, equal each alone: batches do not share their counters."""
    grads = gradients(9, (4, 6))
    one, two = (nn.Parameter(torch.ones(4, 6, dtype=torch.float64)) for _ in range(2))
    optimizer = optim.M3([one, two], 0.02, slow_period=3)
    for step, grad in enumerate(grads):
        one.grad = grad.clone()
        two.grad = grad.clone() if step >= 2 else None
        optimizer.step()
    for weight, own in ((one, grads), (two, grads[2:])):
        expected, _ = run(lambda w: optim.M3(w, 0.02, slow_period=3), own)
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-11, atol=1e-12)


def test_a_rate_that_is_a_tensor():
    grads = gradients(4, (3, 5))
    for elementwise in (False, True):
        one, _ = run(lambda w, e=elementwise: optim.Muon([{"params": w, "elementwise": e}], 0.02), grads)
        rate = torch.tensor(0.02, dtype=torch.float64)
        two, _ = run(lambda w, e=elementwise, r=rate: optim.Muon([{"params": w, "elementwise": e}], r), grads)
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-13)
