"""Strategies whose levels learn: against autograd, against their frozen selves, and cadence.  [NL eq. 47, 71, 74]"""

import copy

import pytest
import torch
from torch import nn

from everlearn.continual.features import RandomReLU
from everlearn.continual.strategies.base import as_features, loss_over_batch, loss_over_seen, squared_error
from everlearn.continual.strategies.cms import step_levels
from everlearn.continual.strategies.cms_encoder import CMSEncoder, ModuleLevels, ResidualMLPs
from everlearn.continual.strategies.cms_one_rate import one_rate_levels
from everlearn.continual.strategies.cms_owm import CMSWithOWM, UnitLevels, chain
from everlearn.continual.strategies.precision import Precision
from everlearn.layers.cms import CMS
from everlearn.levels.clock import Level
from everlearn.memory.precision import PrecisionMemory

D, C, B, H = 6, 4, 5, 3


def records(count=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(C, (count,), generator=generator)
    return 2 * torch.eye(C, D)[y] + 0.5 * torch.randn(count, D, generator=generator), y


def encoder(eta, levels=step_levels, seed=0):
    module = ResidualMLPs(D, H, 2, seed)
    clock = levels(eta, B, (1, 2))
    matrices = {level.name: (f"up.{i}.weight", f"down.{i}.weight") for level, i in zip(clock, (1, 0), strict=True)}
    stacked = ModuleLevels(module, matrices, clock, chunk_size=B)
    return CMSEncoder(stacked, D, C, PrecisionMemory(D), readout_lr=0.1)


def units(rate, levels=step_levels, seed=0, **arguments):
    stacked = UnitLevels(D, H, levels(rate, B, (1, 2)), chunk_size=B, seed=seed)
    return CMSWithOWM(as_features, stacked, stacked, stacked.size, C, **{"ridge": 2.0, "eta": 20.0, **arguments})


def learned(strategy, x, y):
    for batch in zip(x.split(B), y.split(B), strict=True):
        strategy.observe(*batch)
    return strategy


def test_an_encoder_whose_levels_stand_still_is_streaming_lda_bit_for_bit():
    x, y = records()
    frozen = learned(encoder(0.0), x, y)
    plain = learned(Precision(as_features, PrecisionMemory(D)), x, y)
    assert torch.equal(frozen.memory.scores(x), plain.memory.scores(x))
    assert torch.equal(frozen.predict(x), plain.predict(x))


def test_the_encoders_step_is_autograds_and_the_module_stays_as_it_was():
    """Second batch: the read-out has moved by then, so that a gradient reaches the level; its norm is clipped to 1."""
    x, y = records(2 * B)
    strategy = encoder(0.2)
    before = {name: p.clone() for name, p in strategy.levels.module.named_parameters()}
    strategy.observe(x[:B], y[:B])
    twin = copy.deepcopy(strategy.levels.module).requires_grad_()
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            level = "every_1" if ".1." in name else "every_2"
            parameter.copy_(strategy.state.memory[f"{level}.{name}"][0])
    weight, bias = (t.clone().requires_grad_() for t in strategy.readout)
    loss = loss_over_batch(twin(x[B:]) @ weight.mT + bias, y[B:], torch.ones(C, dtype=torch.bool))
    loss.backward()
    strategy.observe(x[B:], y[B:])
    torch.testing.assert_close(strategy.readout[0], (weight - 0.1 * weight.grad).detach())
    torch.testing.assert_close(strategy.readout[1], (bias - 0.1 * bias.grad).detach())
    down = twin.down[1].weight
    expected = down - 0.2 * down.grad / max(1.0, down.grad.norm().item())
    assert down.grad.abs().max() > 0
    torch.testing.assert_close(strategy.state.memory["every_1.down.1.weight"][0], expected.detach())
    assert all(torch.equal(p, before[name]) for name, p in strategy.levels.module.named_parameters())


@pytest.mark.parametrize("make", [encoder, units])
def test_a_slow_level_is_untouched_before_its_period_and_no_graph_is_kept(make):
    x, y = records()
    strategy = make(0.2)
    learned(strategy, x[: 2 * B], y[: 2 * B])
    slow = {name: t for name, t in strategy.state.memory.items() if name.startswith("every_2") and "grad" not in name}
    fast = {name: t for name, t in strategy.state.memory.items() if name.startswith("every_1") and "grad" not in name}
    strategy.observe(x[2 * B : 3 * B], y[2 * B : 3 * B])
    moved = strategy.state.memory
    assert all(torch.equal(moved[name], t) for name, t in slow.items() if name != "every_2.tokens")
    assert any(not torch.equal(moved[name], t) for name, t in fast.items())
    strategy.observe(x[3 * B : 4 * B], y[3 * B : 4 * B])
    assert any(not torch.equal(strategy.state.memory[name], t) for name, t in slow.items())
    assert not any(t.requires_grad for t in strategy.state.memory.values())


@pytest.mark.parametrize("make", [encoder, units])
def test_the_control_starts_where_its_twin_does_and_takes_as_many_bytes(make):
    one, other = make(0.1), make(0.1, one_rate_levels)
    for name, tensor in one.state.memory.items():
        assert torch.equal(tensor, other.state.memory[name])
    x, y = records()
    assert learned(one, x, y).stores_bytes() == learned(other, x, y).stores_bytes()


def test_features_enter_the_memory_as_they_were_when_the_record_came():
    x, y = records(2 * B)
    strategy = learned(encoder(0.5), x[:B], y[:B])
    with torch.no_grad():
        phi = torch.cat([x[:B], strategy.levels(x[B:], strategy.state)])
    strategy.observe(x[B:], y[B:])
    memory = PrecisionMemory(D)
    memory.write(phi, y)
    assert torch.equal(strategy.memory.statistics.second_moment, memory.statistics.second_moment)


def test_levels_need_matrices_of_the_module():
    level = (Level("fast", B, 0.1),)
    for matrices in ({}, {"fast": ("up.0.bias",)}, {"slow": ("up.0.weight",)}):
        with pytest.raises(ValueError, match="give every level some of the module's matrices"):
            ModuleLevels(ResidualMLPs(D, H, 1, 0), matrices, level, chunk_size=B)


def test_residual_mlps_change_nothing_at_first_and_then_are_what_they_say():
    x, _ = records(7)
    module = ResidualMLPs(D, H, 2, 0)
    assert torch.equal(module(x), x)
    for layer in module.down:
        nn.init.ones_(layer.weight)
    first = x + (x @ module.up[0].weight.mT).relu().sum(1, keepdim=True)
    torch.testing.assert_close(module(x), first + (first @ module.up[1].weight.mT).relu().sum(1, keepdim=True))


def frozen_units(x, levels):
    with_one = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    return torch.cat([x.double(), *((with_one @ w.double().mT).relu() for w in levels.layers.values())], 1).detach()


def test_units_that_stand_still_under_their_head_are_ridge_regression_on_them():
    x, y = records(60)
    strategy = learned(units(0.0, ridge=3.0, eta=1.0, loss=squared_error), x, y)
    z = frozen_units(x, strategy.levels)
    expected = torch.linalg.solve(z.mT @ z + 3.0 * torch.eye(z.shape[1]).double(), z.mT @ torch.eye(C).double()[y]).mT
    # float32 against float64
    torch.testing.assert_close(strategy.weight.double(), expected, rtol=1e-3, atol=1e-5)
    assert torch.equal(strategy.predict(x), (z @ expected.mT).argmax(1))


def test_units_start_with_the_spread_of_random_relu_features():
    levels = UnitLevels(50, 4000, (Level("one", B, 0.1),), chunk_size=B, gain=1.5)
    start, peer = levels.layers["one"], RandomReLU(50, 4000, gain=1.5)
    # 200,000 and 4,000 draws: within one and five per cent
    assert start[:, :-1].std().item() == pytest.approx(peer._matrix.std().item(), rel=0.01)
    assert start[:, -1].std().item() == pytest.approx(peer._bias.std().item(), rel=0.05)


def test_a_step_of_the_units_is_autograds_through_the_head():
    x, y = records(2 * B)
    strategy = units(0.2)
    strategy.observe(x[:B], y[:B])
    layer = strategy.state.memory["every_1.units"][0].clone().requires_grad_()
    other = strategy.state.memory["every_2.units"][0]
    with_one = torch.cat([x[B:], torch.ones(B, 1)], 1)
    z = torch.cat([x[B:], (with_one @ layer.mT).relu(), (with_one @ other.mT).relu()], 1)
    loss = loss_over_batch(z @ strategy.weight.mT, y[B:], torch.ones(C, dtype=torch.bool))
    (grad,) = torch.autograd.grad(loss, [layer])
    strategy.observe(x[B:], y[B:])
    expected = layer - 0.2 * grad / max(1.0, grad.norm().item())
    torch.testing.assert_close(strategy.state.memory["every_1.units"][0], expected.detach())


def test_the_read_outs_step_is_its_gradient_times_the_precision_of_all_inputs():
    x, y = records(2 * B)
    strategy = units(0.0, ridge=3.0, eta=7.0)
    strategy.observe(x[:B], y[:B])
    weight = strategy.weight.clone().requires_grad_()
    z = frozen_units(x, strategy.levels).float()
    (grad,) = torch.autograd.grad(loss_over_seen(z[B:] @ weight.mT, y[B:], strategy.seen | seen(y[B:])), [weight])
    precision = torch.linalg.inv(z.mT @ z + 3.0 * torch.eye(z.shape[1]))
    strategy.observe(x[B:], y[B:])
    torch.testing.assert_close(strategy.weight, (weight - 7.0 * grad @ precision).detach(), rtol=1e-4, atol=1e-5)


def seen(y):
    return torch.bincount(y, minlength=C) > 0


def test_a_chain_is_read_as_the_features_plus_what_its_mlps_add():
    """[NL eq. 70, 73]"""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        cms = CMS(D, H, step_levels(0.1, B, (1, 2)), chunk_size=B)
    x, _ = records(7)
    y = x
    for mlp in cms.mlps.values():
        y = y + mlp(y)
    torch.testing.assert_close(chain(cms)(x, cms.track(None)), y)


def test_bytes_of_levels_by_hand():
    x, y = records()
    # weights and gradients of each level in float32, and its clock
    encoder_levels = 2 * (2 * 2 * 4 * D * H + 8)
    sums = 8 * (D * (D + 1) // 2 + C * D + C)
    assert learned(encoder(0.1), x, y).stores_bytes() == encoder_levels + 4 * (C * D + C) + sums
    size = D + 2 * H
    unit_levels = 2 * (2 * 4 * H * (D + 1) + 8)
    assert learned(units(0.1), x, y).stores_bytes() == unit_levels + 4 * C * size + 4 * size * size
