"""What every rule keeps to, whatever its equation: a new rule is one more row of CASES."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch

from everlearn import rules
from everlearn.memory.codec import decode, encode

OUT, IN, STEPS, ETA = 3, 5, 7, 0.05


@dataclass(frozen=True)
class Case:
    """One rule and what it is given.

    Args:
        keys: how many keys it takes in a step, 0 for none.
        setting: an argument that must make a difference.
        dot: its gradient is that of the dot-product objective; else of the L2 objective.
        decays: moves without a gradient.
        vmap: runs under torch.func.vmap; False where the rule decides from its slots.
        explodes: its step, as its docstring says, is unstable for large values.
        outer: its keys have an outer gradient.
    """

    keys: int = 0
    setting: dict[str, Any] = field(default_factory=dict)
    dot: bool = False
    decays: bool = False
    vmap: bool = True
    explodes: bool = False
    outer: bool = True


CASES = {
    rules.gd: Case(),
    rules.momentum: Case(setting={"beta": 0.5}),
    rules.preconditioned: Case(setting={"beta2": 0.5}),
    rules.adam: Case(setting={"beta2": 0.5}),
    rules.delta_momentum: Case(setting={"gamma": 0.1}),
    rules.delta_momentum_matrix: Case(setting={"gamma": 0.1}),
    rules.delta_momentum_printed: Case(setting={"alpha": 0.1}, explodes=True),
    rules.newton_schulz: Case(setting={"nesterov": False}),
    rules.m3: Case(setting={"slow_period": 3}, vmap=False),
    rules.deep_momentum: Case(setting={"eta_inner": 0.1}),
    rules.dgd: Case(keys=3, setting={"rho": 0.3}, decays=True),
    rules.least_squares: Case(keys=3, setting={"ridge": 0.3}),
    rules.owm: Case(keys=3, setting={"refresh_period": 2}, vmap=False),
    rules.owm_low_rank: Case(keys=3, setting={"rank": 2}, outer=False),
    rules.oja: Case(keys=1, dot=True, explodes=True),
    rules.omega: Case(keys=1, setting={"window": 3}),
}
every_rule = pytest.mark.parametrize("rule", CASES, ids=lambda rule: rule.__name__)
pytestmark = pytest.mark.filterwarnings("ignore:delta_momentum_printed overflows")


def gradient(case, weights, keys, values):
    """Return what the objective's gradient is in closed form; keys [..., T, in], values [..., T, out]."""
    error = -values if case.dot else keys @ weights.mT - values
    return error.mT @ keys


def stream(case, *lead, dtype=torch.float64, scale=1.0):
    """Return weights, and STEPS of keys and values."""
    count = case.keys or 4
    keys = torch.randn(STEPS, *lead, count, IN, dtype=dtype) / 2
    values = scale * torch.randn(STEPS, *lead, count, OUT, dtype=dtype)
    # small weights, so that gradients are mostly noise and contradict each other
    return 0.1 * scale * torch.randn(*lead, OUT, IN, dtype=dtype), keys, values


def step(rule, weights, keys, values, slots, eta=ETA, **settings):
    case = CASES[rule]
    key = keys if case.keys else None
    return rule(weights, gradient(case, weights, keys, values), key, slots, eta=eta, **settings)


def run(rule, weights, keys, values, slots=None, eta=ETA, **settings):
    slots = slots or {}
    for k, v in zip(keys, values, strict=True):
        weights, slots = step(rule, weights, k, v, slots, eta, **settings)
    return weights, slots


def test_every_exported_rule_has_a_row():
    exported = {getattr(rules, name) for name in rules.__all__} - {rules.Rule, rules.Slots}
    assert exported - {rules.clip_rows, rules.orthogonalize} == set(CASES)


@every_rule
def test_nothing_that_is_given_is_written(rule):
    """Arguments keep their bits, and the same arguments give the same bits."""
    W, keys, values = stream(CASES[rule], 2)
    W, slots = run(rule, W, keys[:-1], values[:-1])
    grad, key = gradient(CASES[rule], W, keys[-1], values[-1]), keys[-1] if CASES[rule].keys else None
    given = [W, grad, *slots.values(), *([] if key is None else [key])]
    before, names = [tensor.clone() for tensor in given], list(slots)
    first, again = (rule(W, grad, key, slots, eta=ETA) for _ in range(2))
    assert all(map(torch.equal, given, before))
    assert list(slots) == names
    assert torch.equal(first[0], again[0])
    assert all(torch.equal(first[1][name], again[1][name]) for name in again[1])


@pytest.mark.parametrize(
    "rule",
    [*CASES, partial(rules.momentum, average=False)],
    ids=[*(rule.__name__ for rule in CASES), "printed_momentum"],
)
def test_nothing_that_is_returned_lies_in_the_memory_of_an_argument(rule):
    """A gradient that is zeroed in place, or weights that are written, must not reach into the slots."""
    case = CASES.get(rule, Case())
    W, keys, values = stream(case, 2)
    slots = {}
    for k, v in zip(keys[:3], values[:3], strict=True):
        grad, key = gradient(case, W, k, v), k if case.keys else None
        new, slots = rule(W, grad, key, slots, eta=ETA)
        given = {tensor.untyped_storage().data_ptr() for tensor in (W, grad, k)}
        assert not given & {tensor.untyped_storage().data_ptr() for tensor in (new, *slots.values())}
        W = new


@every_rule
def test_rows_never_mix(rule):
    """Four matrices of very different gradients equal each alone: sums over a matrix may be ordered otherwise."""
    W, keys, values = stream(CASES[rule], 2, 2)
    values = values * torch.tensor([[1.0, 30.0], [0.01, 3.0]])[..., None, None]
    together, slots = run(rule, W, keys, values)
    for i in range(2):
        for j in range(2):
            alone, own = run(rule, W[i, j], keys[:, i, j], values[:, i, j])
            torch.testing.assert_close(together[i, j], alone, rtol=1e-11, atol=1e-12)
            assert set(own) == set(slots)
    for slot in slots.values():
        assert all(size in (1, 2) for size in slot.shape[:2])


@every_rule
def test_rows_may_begin_at_different_times(rule):
    """A slot of zeros is one that has not started, so that a caller can mix rows with torch.where."""
    W, keys, values = stream(CASES[rule], 2)
    mixed, slots = W, {}
    for t in range(STEPS):
        new, after = step(rule, mixed, keys[t], values[t], slots)
        begun = torch.tensor([True, t >= 2]).reshape(2, 1, 1)
        mixed = torch.where(begun, new, mixed)
        slots = {name: torch.where(begun, slot, slots.get(name, torch.zeros(()))) for name, slot in after.items()}
    for row, start in ((0, 0), (1, 2)):
        alone, _ = run(rule, W[row], keys[start:, row], values[start:, row])
        torch.testing.assert_close(mixed[row], alone, rtol=1e-11, atol=1e-12)


@every_rule
def test_a_step_of_size_zero_changes_nothing(rule):
    W, keys, values = stream(CASES[rule], 2)
    assert torch.equal(run(rule, W, keys, values, eta=0.0)[0], W)


@every_rule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_type_of_the_weights_is_kept(rule, dtype):
    weights, slots = run(rule, *stream(CASES[rule], 2, dtype=dtype))
    assert {weights.dtype, *(slot.dtype for slot in slots.values())} == {dtype}


@pytest.mark.parametrize("rule", [rules.dgd, rules.least_squares, rules.owm, rules.owm_low_rank])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_where_something_is_solved_half_precision_is_float32_but_for_rounding(rule, dtype):
    """Two steps from the same rounded numbers, to a few units of the shorter type; its weights stay of that type."""
    weights, keys, values = (x.to(dtype) for x in stream(CASES[rule], 2))
    key, grad = keys[0], gradient(CASES[rule], weights, keys[0], values[0])
    got, slots = rule(weights, grad, key, {}, eta=ETA)
    got, _ = rule(got, grad, key, slots, eta=ETA)
    assert got.dtype == dtype
    same, slots = rule(weights.float(), grad.float(), key.float(), {}, eta=ETA)
    same, _ = rule(same, grad.float(), key.float(), slots, eta=ETA)
    torch.testing.assert_close(got.float(), same, rtol=0, atol=8 * torch.finfo(dtype).eps * float(same.abs().max()))


@every_rule
def test_a_step_size_for_each_row(rule):
    W, keys, values = stream(CASES[rule], 2)
    eta = torch.tensor([0.02, 0.0], dtype=torch.float64).reshape(2, 1, 1)
    got, _ = run(rule, W, keys, values, eta=eta)
    torch.testing.assert_close(got[:1], run(rule, W, keys, values, eta=0.02)[0][:1], rtol=1e-11, atol=1e-12)
    assert torch.equal(got[1], W[1])


@every_rule
def test_a_resume_from_a_file_changes_no_bit(rule):
    W, keys, values = stream(CASES[rule], 2, dtype=torch.float32)
    expected, slots = run(rule, W, keys, values)
    for cut in range(1, STEPS):
        weights, half = run(rule, W, keys[:cut], values[:cut])
        loaded, _ = decode(encode({name: slot.contiguous() for name, slot in half.items()}, {}), "slots")
        got, after = run(rule, weights, keys[cut:], values[cut:], loaded)
        assert torch.equal(got, expected)
        assert all(torch.equal(after[name], slots[name]) for name in slots)


@every_rule
def test_no_gradient_no_move(rule):
    W, keys, _ = stream(CASES[rule], 2)
    for scale in (0.0, 1.0):
        moved, slots = W, {}
        for k in keys:
            key = scale * k if CASES[rule].keys else None
            moved, slots = rule(moved, torch.zeros_like(W), key, slots, eta=ETA)
        assert bool(moved.isfinite().all())
        assert all(bool(slot.isfinite().all()) for slot in slots.values())
        assert torch.equal(moved, W) == (not CASES[rule].decays or scale == 0)


@every_rule
@pytest.mark.parametrize("scale", [1e-20, 1e20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_of_any_size_stay_finite(rule, scale, dtype):
    """In float32 an average of squares may overflow, as the docstrings say, and stop the step; weights stay finite."""
    if CASES[rule].explodes and scale > 1:
        return
    weights, slots = run(rule, *stream(CASES[rule], 2, dtype=dtype, scale=scale))
    assert bool(weights.isfinite().all())
    squares = {"v"} if dtype == torch.float32 and scale > 1 else set()
    assert all(bool(slot.isfinite().all()) for name, slot in slots.items() if name not in squares)


@every_rule
def test_a_vector_is_one_row(rule):
    W, keys, values = stream(CASES[rule])
    W, values = W[:1], values[..., :1]
    row, vector, one, two = W, W[0], {}, {}
    for k, v in zip(keys, values, strict=True):
        grad, key = gradient(CASES[rule], row, k, v), k if CASES[rule].keys else None
        row, one = rule(row, grad, key, one, eta=ETA)
        vector, two = rule(vector, grad[0], key, two, eta=ETA)
        torch.testing.assert_close(row[0], vector, rtol=1e-13, atol=1e-14)


@every_rule
def test_the_outer_gradient_is_right(rule):
    """Three steps, differentiated by start, keys, values and step size, against finite differences."""
    W, keys, values = stream(CASES[rule])
    inputs = (W, keys[:3], values[:3], torch.full((1, 1), ETA, dtype=torch.float64))
    settings = {"eta_inner": 0.1} if rule is rules.deep_momentum else {}
    settings |= {"slow_period": 2} if rule is rules.m3 else {}

    seen = keys[:3].clone()

    def learn(W, keys, values, eta):
        if CASES[rule].outer:
            return run(rule, W, keys, values, eta=eta, **settings)[0]
        # gradients that come from elsewhere than the keys
        slots = {}
        for k, g in zip(seen, values, strict=True):
            W, slots = rule(W, W + g.mT @ keys[0], k, slots, eta=eta)
        return W

    assert torch.autograd.gradcheck(learn, [tensor.requires_grad_() for tensor in inputs], fast_mode=True)


@every_rule
def test_it_runs_under_vmap_where_it_decides_nothing_from_its_slots(rule):
    if not CASES[rule].vmap:
        return
    W, keys, values = stream(CASES[rule], 2)
    got = torch.func.vmap(lambda W, k, v: run(rule, W, k, v)[0], in_dims=(0, 1, 1))(W, keys, values)
    torch.testing.assert_close(got, run(rule, W, keys, values)[0], rtol=1e-11, atol=1e-12)


@every_rule
def test_partial_configures_it(rule):
    """Each setting has an effect within seven steps, and functools.partial passes it on."""
    W, keys, values = stream(CASES[rule])
    setting = CASES[rule].setting
    configured = partial(rule, **setting)
    weights, slots, default = W, {}, run(rule, W, keys, values)[0]
    for k, v in zip(keys, values, strict=True):
        key = k if CASES[rule].keys else None
        weights, slots = configured(weights, gradient(CASES[rule], weights, k, v), key, slots, eta=ETA)
    assert torch.equal(weights, run(rule, W, keys, values, **setting)[0])
    assert torch.equal(weights, default) == (not setting)
