"""A level that is the running mean of another one's weights, against the sum written out."""

import math

import pytest
import torch

from everlearn.layers import CMS, IndependentCMS, NestedCMS
from everlearn.levels import Level
from everlearn.memory.state import LayerState
from everlearn.rules import momentum
from tests.layers.variants import ROWS, draw, gradients, learn, make

PARTS = ("gate", "up", "down")
DECAY = 0.75
PAIR = [Level("fast", 4, 0.3, reset="document"), Level("slow", mean_of="fast", decay=DECAY)]
both_kinds = pytest.mark.parametrize("kind", [CMS, IndependentCMS])


def read_chunks(cms, count: int, state: LayerState | None = None, seed: int = 0, tokens=None) -> LayerState:
    state = state or cms.initial_state(ROWS)
    for n in range(count):
        state, _ = learn(cms, state, *draw(ROWS, 2, seed=seed + n), tokens=tokens)
    return state


@both_kinds
def test_the_mean_is_the_weighted_sum_of_all_weights_since_the_start(kind):
    """m_n = decay^n m_0 + (1 - decay) sum_i decay^(n - i) theta_i, summed from the recorded weights."""
    cms = make(kind, PAIR, chunk_size=2)
    state = cms.initial_state(ROWS)
    start, history = state.memory["fast.up"].detach(), []
    for n in range(10):
        state, updates = learn(cms, state, *draw(ROWS, 2, seed=n))
        assert set(updates) == ({"fast", "slow"} if n % 2 else set())
        history += [state.memory["fast.up"].detach()] if n % 2 else []
    expected = DECAY**5 * start + (1 - DECAY) * sum(DECAY ** (4 - i) * w for i, w in enumerate(history))
    torch.testing.assert_close(state.memory["slow.up"].detach(), expected, atol=1e-12, rtol=1e-12)


@both_kinds
def test_the_mean_is_bit_identical_between_updates_of_the_level_it_follows(kind):
    """Cadence: with chunks of 2 and a period of 4, it moves at every second write."""
    cms, state = make(kind, PAIR, chunk_size=2), LayerState()
    last = cms.initial_state(ROWS).memory["slow.down"]
    for n in range(6):
        state, _ = learn(cms, state, *draw(ROWS, 2, seed=n))
        assert torch.equal(state.memory["slow.down"], last) == (n % 2 == 0)
        last = state.memory["slow.down"]


@both_kinds
def test_a_mean_is_not_read_has_no_parameters_and_gets_no_gradient(kind):
    """Special case: until the first reset, the other levels are what they are without it, bit for bit."""
    alone, pair = (make(kind, levels, chunk_size=2) for levels in (PAIR[:1], PAIR))
    assert alone.state_dict().keys() == pair.state_dict().keys()
    a, b = read_chunks(alone, 5), read_chunks(pair, 5)
    assert all(torch.equal(value, b.memory[name]) for name, value in a.memory.items())
    assert set(b.memory) - set(a.memory) == {f"slow.{part}" for part in PARTS}
    assert {name.split(".")[0] for name in pair.weights(b)} == {"fast"}
    x, _ = draw(ROWS, 7)
    assert torch.equal(alone(x, a)[0], pair(x, b)[0])


@both_kinds
def test_the_level_restarts_from_its_mean_bit_for_bit(kind):
    """Weights are the mean's; the collected gradient, the clock and the momentum of the rule are zero."""
    cms = make(kind, PAIR, chunk_size=2, rule=momentum)
    state = read_chunks(cms, 5)
    assert bool(state.memory["fast.up.grad"].any())
    fresh, updates = cms.tick(state, "document")
    assert updates == {}
    for part in PARTS:
        assert torch.equal(fresh.memory[f"fast.{part}"], state.memory[f"slow.{part}"])
        assert torch.equal(fresh.memory[f"slow.{part}"], state.memory[f"slow.{part}"])
        for kept in ("grad", "slot.m", "slot.mass"):
            assert not bool(fresh.memory[f"fast.{part}.{kept}"].any())
    assert not torch.equal(fresh.memory["fast.up"], cms.initial_state(ROWS).memory["fast.up"])
    assert fresh.memory["fast.tokens"].tolist() == [0] * ROWS
    assert torch.equal(cms.tick(state, "session")[0].memory["fast.up"], state.memory["fast.up"])


@both_kinds
def test_a_restart_concerns_the_named_rows_only(kind):
    cms = make(kind, PAIR, chunk_size=2)
    state = read_chunks(cms, 5)
    fresh, _ = cms.tick(state, "document", torch.tensor([False, True, False]))
    for name, value in fresh.memory.items():
        assert torch.equal(value[[0, 2]], state.memory[name][[0, 2]])
    assert torch.equal(fresh.memory["fast.up"][1], state.memory["slow.up"][1])


@both_kinds
def test_the_mean_moves_only_in_rows_that_stepped_and_rows_never_mix(kind):
    cms = make(kind, PAIR, chunk_size=2)
    tokens = torch.tensor([2, 4, 0])
    state, updates = learn(cms, cms.initial_state(ROWS), *draw(ROWS, 4), tokens=tokens)
    start = cms.initial_state(ROWS).memory["slow.up"]
    assert updates["slow"].rows.tolist() == [False, True, False]
    assert updates["slow"].surprise.tolist() == [0.0] * ROWS
    assert [torch.equal(state.memory["slow.up"][row], start[row]) for row in range(ROWS)] == [True, False, True]


def test_anchor_decay_pulls_to_the_learned_start_and_not_to_the_mean():
    """By hand: with decay 0 the mean is the level itself, so a pull to the mean would be no pull at all."""
    anchored = Level("fast", 2, 0.3, anchor_decay=0.1, reset="document")
    with_mean, without = (
        read_chunks(make(CMS, levels, chunk_size=2), 3)
        for levels in ([anchored, Level("slow", mean_of="fast", decay=0.0)], [anchored])
    )
    assert torch.equal(with_mean.memory["fast.up"], without.memory["fast.up"])
    assert torch.equal(with_mean.memory["slow.up"], with_mean.memory["fast.up"])


def test_steps_of_zero_leave_level_and_mean_bit_identical():
    cms = make(CMS, [Level("fast", 2, 0.0), Level("slow", mean_of="fast", decay=0.9)], chunk_size=2)
    start, state = cms.initial_state(ROWS), read_chunks(cms, 3)
    for name in (f"{level}.{part}" for level in ("fast", "slow") for part in PARTS):
        assert torch.equal(state.memory[name], start.memory[name])


@both_kinds
def test_a_mean_that_resets_goes_back_to_the_learned_start_and_takes_its_level_along_at_the_same_event(kind):
    """Whatever the order in which the two are given."""
    slow = Level("slow", mean_of="fast", decay=DECAY, reset="session")
    for reset in ("document", "session"):
        fast = Level("fast", 2, 0.3, reset=reset)
        for levels in ([fast, slow], [slow, fast]):
            cms = make(kind, levels, chunk_size=2)
            start, state = cms.initial_state(ROWS).memory, read_chunks(cms, 3)
            fresh = cms.tick(state, "session")[0].memory
            assert torch.equal(fresh["slow.up"], start["slow.up"])
            expected = start["fast.up"] if reset == "session" else state.memory["fast.up"]
            assert torch.equal(fresh["fast.up"], expected)


@both_kinds
def test_a_level_beside_the_pair_keeps_its_own_pace(kind):
    """A third level with a gradient of its own steps as it would without the mean."""
    mid = Level("mid", 8, 0.2)
    alone, pair = (make(kind, levels, chunk_size=2) for levels in ([PAIR[0], mid], [PAIR[0], mid, PAIR[1]]))
    a, b = read_chunks(alone, 9), read_chunks(pair, 9)
    assert all(torch.equal(value, b.memory[name]) for name, value in a.memory.items())


def test_an_outer_loss_reaches_the_start_through_the_mean():
    """Values and gradients: finite differences of the loss after a restart, in the direction of one parameter."""
    cms = make(CMS, PAIR, chunk_size=2)
    steps = []
    state = cms.initial_state(ROWS)
    for n in range(4):
        state, grads = gradients(cms, state, *draw(ROWS, 2, seed=n))
        steps.append([g.detach() for g in grads])
        state, _ = cms.write(cms.accumulate(state, grads, torch.full((ROWS,), 2)))
    weight, (x, target) = cms.mlps["fast"].down.weight, draw(ROWS, 2, seed=9)

    def outer() -> torch.Tensor:
        state = cms.initial_state(ROWS)
        for grads in steps:  # the inner gradients are taken as given: first order
            state, _ = cms.write(cms.accumulate(state, grads, torch.full((ROWS,), 2)))
        return ((cms(x, cms.tick(state, "document")[0])[0] - target) ** 2).mean()

    (grad,) = torch.autograd.grad(outer(), [weight])
    with torch.no_grad():
        weight[0, 0] += 1e-6
        up = outer()
        weight[0, 0] -= 2e-6
        down = outer()
    assert abs(float(up - down) / 2e-6 - float(grad[0, 0])) < 1e-7 * max(1.0, abs(float(grad[0, 0])))


def test_nested_levels_refuse_a_mean():
    with pytest.raises(ValueError, match=r"'slow' is the mean of 'fast', but nested levels restart.*use CMS"):
        make(NestedCMS, PAIR, chunk_size=2)
    assert math.isinf(PAIR[1].update_period)
