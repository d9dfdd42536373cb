"""Levels side by side: a weighted sum of MLPs.  [NL eq. 74]"""

import math

import torch
from torch.nn.functional import silu

from everlearn.layers import CMS, IndependentCMS
from everlearn.levels import Level
from everlearn.memory.state import LayerState
from tests.layers.variants import DIM, ROWS, draw, learn, make

LEVELS = [Level("fast", 2, 0.1), Level("slow", 4, 0.1)]


def test_the_output_is_the_weighted_sum_of_the_mlps_written_out():
    """[NL eq. 74] with weights that are not 1 and weights that each row owns."""
    cms = make(IndependentCMS, LEVELS, chunk_size=2)
    with torch.no_grad():
        cms.mix.copy_(torch.tensor([0.5, -2.0]))
    x, target = draw(ROWS, 2)
    state, _ = learn(cms, LayerState(), x, target)
    y = cms(x, state)[0]
    for row in range(ROWS):
        for t in range(2):
            expected = torch.zeros(DIM, dtype=torch.double)
            for weight, level in zip((0.5, -2.0), LEVELS, strict=True):
                gate, up, down = (state.memory[f"{level.name}.{part}"][row] for part in ("gate", "up", "down"))
                expected += weight * (down @ (silu(gate @ x[row, t]) * (up @ x[row, t])))
            torch.testing.assert_close(y[row, t], expected, atol=1e-12, rtol=1e-12)


def test_endless_periods_make_the_sum_of_plain_mlps():
    """[NL eq. 74] special case: nothing is kept, and w = 1 adds the MLPs up."""
    cms = make(IndependentCMS, [Level("a", math.inf), Level("b", math.inf)])
    x, _ = draw(ROWS, 7)
    torch.testing.assert_close(cms(x)[0], cms.mlps["a"](x) + cms.mlps["b"](x), atol=1e-14, rtol=1e-14)
    assert cms.initial_state(2).memory == {}


def test_one_level_is_the_chain_of_one_level():
    """[NL eq. 73-74]: outputs, what is learned and outer gradients; y - x of the chain cancels one rounding."""
    one, chain = (make(kind, [Level("only", 2, 0.3)], chunk_size=2) for kind in (IndependentCMS, CMS))
    states = {}
    for cms in (one, chain):
        state = LayerState()
        for n in range(3):
            state, _ = learn(cms, state, *draw(ROWS, 2, seed=n))
        states[cms] = state
        cms(draw(ROWS, 5)[0])[0].square().sum().backward()
    for name, value in states[one].memory.items():
        torch.testing.assert_close(value, states[chain].memory[name], atol=1e-12, rtol=1e-12)
    for a, b in zip(one.mlps.parameters(), chain.mlps.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-12, rtol=1e-12)


def test_the_weights_of_the_sum_receive_the_outputs_as_gradient():
    """[NL eq. 74]: d sum(y) / d w_l is the sum of what MLP_l gives."""
    cms = make(IndependentCMS, LEVELS, chunk_size=2)
    x, _ = draw(ROWS, 3)
    cms(x)[0].sum().backward()
    expected = torch.stack([cms.mlps[level.name](x).sum() for level in LEVELS])
    torch.testing.assert_close(cms.mix.grad, expected.detach(), atol=1e-12, rtol=1e-12)


def test_a_level_reads_the_input_and_not_what_another_has_learned():
    """Resetting one level takes away its own summand and leaves the other's, bit for bit."""
    levels = [Level("fast", 2, 0.3, reset="document"), Level("slow", 2, 0.3)]
    cms = make(IndependentCMS, levels, chunk_size=2)
    x, target = draw(ROWS, 2)
    state, _ = learn(cms, LayerState(), x, target)
    ended, _ = cms.tick(state, "document")
    slow = {name: value for name, value in state.memory.items() if name.startswith("slow.")}
    slow_only = cms(x, ended)[0] - cms.mlps["fast"](x)
    expected = make(CMS, levels, chunk_size=2)
    alone = LayerState(expected.initial_state(ROWS).memory | slow | {"fast.down": torch.zeros(ROWS, DIM, 5).double()})
    torch.testing.assert_close(slow_only, expected(x, alone)[0], atol=1e-12, rtol=1e-12)
