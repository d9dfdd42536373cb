"""What holds for levels in a chain, side by side and nested alike.  [NL eq. 71-74]"""

import math

import pytest
import torch

from everlearn.layers import IndependentCMS, NestedCMS
from everlearn.levels import Level
from everlearn.memory.state import LayerState
from tests.layers.variants import KINDS, ROWS, draw, learn, make

LEVELS = [Level("fast", 2, 0.3), Level("slow", 6, 0.3)]
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
def test_a_level_is_bit_identical_between_its_updates(kind):
    """[NL eq. 71-74] cadence: with chunks of 2, a period of 6 changes at every third write only."""
    cms, state = make(kind, LEVELS, chunk_size=2), LayerState()
    last = cms.initial_state(ROWS).memory["slow.up"]
    for n in range(1, 10):
        state, updates = learn(cms, state, *draw(ROWS, 2, seed=n))
        assert set(updates) == ({"fast", "slow"} if n % 3 == 0 else {"fast"})
        assert torch.equal(state.memory["slow.up"], last) == (n % 3 != 0)
        last = state.memory["slow.up"]


@every_kind
def test_the_fast_level_is_bit_identical_between_its_updates(kind):
    """[NL eq. 71-74] cadence of the level that is read, with a chunk of half its period."""
    cms, state = make(kind, [Level("fast", 4, 0.3), Level("slow", 8, 0.3)], chunk_size=2), LayerState()
    last = cms.initial_state(ROWS).memory["fast.down"]
    for n in range(1, 9):
        state, _ = learn(cms, state, *draw(ROWS, 2, seed=n))
        assert torch.equal(state.memory["fast.down"], last) == (n % 2 != 0)
        last = state.memory["fast.down"]


@every_kind
def test_rows_never_mix(kind):
    """Another row's content leaves a row bit-identical, weights and all."""
    cms, states = make(kind, LEVELS, chunk_size=2), []
    for other in (0.0, 100.0):
        state = LayerState()
        for n in range(4):
            x, target = draw(ROWS, 2, seed=n)
            x[1] += other
            state, _ = learn(cms, state, x, target)
        states.append(state.memory)
    for name, value in states[0].items():
        assert torch.equal(value[[0, 2]], states[1][name][[0, 2]])
    assert not torch.equal(states[0]["fast.up"][1], states[1]["fast.up"][1])


@every_kind
def test_the_state_that_was_given_is_left_alone(kind):
    cms = make(kind, [Level("fast", 2, 0.3, reset="document"), Level("slow", 4, 0.3)], chunk_size=2)
    state, _ = learn(cms, LayerState(), *draw(ROWS, 2))
    copies = {name: value.clone() for name, value in state.memory.items()}
    later, _ = learn(cms, state, *draw(ROWS, 2, seed=1))
    cms.tick(later, "document")
    assert all(torch.equal(state.memory[name], value) for name, value in copies.items())


@every_kind
def test_weights_that_each_row_owns_read_like_the_shared_ones(kind):
    cms = make(kind, LEVELS, chunk_size=2)
    x, _ = draw(ROWS, 7)
    torch.testing.assert_close(cms(x, cms.initial_state(ROWS))[0], cms(x)[0], atol=1e-12, rtol=1e-12)


@every_kind
def test_eta_zero_is_the_identity(kind):
    cms = make(kind, [Level("fast", 2, 0.0), Level("slow", 4, 0.0)], chunk_size=2)
    start, state = cms.initial_state(ROWS), LayerState()
    for n in range(2):
        state, _ = learn(cms, state, *draw(ROWS, 2, seed=n))
    assert all(torch.equal(state.memory[name], value) for name, value in cms.weights(start).items())


@every_kind
def test_a_step_goes_downhill(kind):
    cms = make(kind, [Level("fast", 2, 0.01), Level("slow", 4, 0.01)], chunk_size=2)
    x, target = draw(ROWS, 2)
    state, _ = learn(cms, LayerState(), x, target)
    before, after = (((cms(x, s)[0] - target) ** 2).mean((1, 2)) for s in (LayerState(), state))
    assert bool((after < before).all())


@every_kind
def test_learning_through_a_state_gives_its_start_a_gradient(kind):
    """Values and gradients: the outer loss reaches every parameter through the writes of all levels."""
    cms = make(kind, [Level("fast", 2, 0.1), Level("slow", 4, 0.1)], chunk_size=2)
    state = cms.initial_state(ROWS)
    for n in range(3):
        state, _ = learn(cms, state, *draw(ROWS, 2, seed=n))
    x, target = draw(ROWS, 2, seed=9)
    ((cms(x, state)[0] - target) ** 2).sum().backward()
    for name, parameter in cms.named_parameters():
        assert parameter.grad is not None, name
        assert math.isfinite(norm := float(parameter.grad.norm())) and norm > 1e-8, name


@every_kind
def test_the_state_of_other_levels_is_refused(kind):
    state = make(kind, [Level("fast", 2), Level("slow", 4)], chunk_size=2).initial_state(ROWS)
    other = make(kind, [Level("fast", 2), Level("other", 4)], chunk_size=2)
    with pytest.raises(ValueError, match=r"another memory's: other\.gate is nothing.*initial_state"):
        other(draw(ROWS, 2)[0], state)


def test_only_what_is_read_is_differentiated():
    """A chain and a sum give every level a gradient of its own; nested levels share that of the fastest."""
    for kind in KINDS:
        cms = make(kind, LEVELS, chunk_size=2)
        levels = {name.split(".")[0] for name in cms.weights(cms.initial_state(1))}
        assert levels == ({"fast"} if kind is NestedCMS else {"fast", "slow"})
    assert "mix" in dict(make(IndependentCMS, LEVELS, chunk_size=2).named_parameters())
