"""Nested levels against the restarts written out.  [NL eq. 72]"""

import math

import pytest
import torch
from torch.nn.functional import silu

from everlearn.layers import CMS, NestedCMS
from everlearn.levels import Level
from everlearn.memory.state import LayerState
from everlearn.rules import momentum
from tests.layers.variants import ROWS, draw, gradients, learn, make

PARTS = ("gate", "up", "down")
LEVELS = [Level("fast", 2, 0.1), Level("mid", 4, 0.2), Level("slow", 8, 0.3)]


def literal(start: dict[str, torch.Tensor], chunks, row: int) -> dict[str, dict[str, torch.Tensor]]:
    """Eq. 72 for one row: three loops inside each other, each starting from what the one around it holds."""
    chunks = iter(chunks)
    slow = {part: w.clone() for part, w in start.items()}
    try:
        while True:
            of_slow = {part: torch.zeros_like(w) for part, w in start.items()}
            mid = dict(slow)
            for _ in range(2):
                of_mid = {part: torch.zeros_like(w) for part, w in start.items()}
                fast = dict(mid)
                for _ in range(2):
                    x, target = next(chunks)
                    leaf = {part: w.clone().requires_grad_() for part, w in fast.items()}
                    y = (silu(x[row] @ leaf["gate"].T) * (x[row] @ leaf["up"].T)) @ leaf["down"].T
                    ((y - target[row]) ** 2).sum(-1).mean().backward()
                    for part, w in leaf.items():
                        fast[part] = fast[part] - 0.1 * w.grad
                        of_mid[part] += w.grad / 2
                        of_slow[part] += w.grad / 4
                mid = {part: mid[part] - 0.2 * of_mid[part] for part in PARTS}
                fast = dict(mid)
            slow = {part: slow[part] - 0.3 * of_slow[part] for part in PARTS}
            mid = fast = dict(slow)
    except StopIteration:
        return {"fast": fast, "mid": mid, "slow": slow}


@pytest.mark.parametrize("count", range(1, 13))
def test_each_level_restarts_from_the_start_that_the_slower_one_learned(count):
    """[NL eq. 72] with three levels, after every number of chunks up to three rounds of the middle level."""
    cms = make(NestedCMS, LEVELS, chunk_size=2, max_norm=math.inf)
    chunks = [draw(ROWS, 2, seed=n) for n in range(count)]
    state = LayerState()
    for x, target in chunks:
        state, _ = learn(cms, state, x, target)
    start = {part: w.detach() for part, w in cms.mlps["slow"].weights().items()}
    for row in range(ROWS):
        for level, parts in literal(start, chunks, row).items():
            for part, expected in parts.items():
                torch.testing.assert_close(state.memory[f"{level}.{part}"][row], expected, atol=1e-11, rtol=1e-11)


def test_a_restart_copies_the_slower_level_bit_for_bit_and_takes_all_that_the_faster_one_kept():
    """[NL eq. 72]: weights, collected gradient, clock and the momentum of the rule."""
    cms = make(NestedCMS, LEVELS[:2], chunk_size=2, rule=momentum)
    state = LayerState()
    for n in range(2):
        before = state
        state, updates = learn(cms, state, *draw(ROWS, 2, seed=n))
    assert set(updates) == {"fast", "mid"}
    assert bool((before.memory["fast.up.slot.m"] != 0).any())
    for part in PARTS:
        assert torch.equal(state.memory[f"fast.{part}"], state.memory[f"mid.{part}"])
        for kept in ("grad", "slot.m", "slot.mass"):
            assert not bool(state.memory[f"fast.{part}.{kept}"].any())
        assert bool((state.memory[f"mid.{part}.slot.m"] != 0).all())
    assert state.memory["fast.tokens"].tolist() == [0] * ROWS


def test_only_the_rows_in_which_the_slower_level_stepped_restart():
    """The clocks of rows differ: with 1 to 3 tokens in the first chunk, some rows are due and others are not."""
    cms = make(NestedCMS, [Level("fast", 1, 0.1), Level("mid", 4, 0.2)], chunk_size=1)
    state, _ = learn(cms, LayerState(), *draw(ROWS, 3), tokens=torch.tensor([1, 2, 3]))
    after, updates = learn(cms, state, *draw(ROWS, 2, seed=1), tokens=torch.tensor([2, 1, 1]))
    assert updates["mid"].rows.tolist() == [False, False, True]
    assert torch.equal(after.memory["fast.up"][2], after.memory["mid.up"][2])
    for row in (0, 1):
        assert torch.equal(after.memory["mid.up"][row], state.memory["mid.up"][row])
        assert not torch.equal(after.memory["fast.up"][row], after.memory["mid.up"][row])
        assert bool(after.memory["mid.up.grad"][row].any())


def test_one_nested_level_is_the_chain_of_one_level_bit_for_bit():
    """[NL eq. 72-73]: outputs, states and outer gradients."""
    one, chain = (make(kind, [Level("only", 2, 0.3, anchor_decay=0.1)], chunk_size=2) for kind in (NestedCMS, CMS))
    assert one.state_dict().keys() == chain.state_dict().keys()
    states = {}
    for cms in (one, chain):
        state = LayerState()
        for n in range(3):
            state, _ = learn(cms, state, *draw(ROWS, 2, seed=n))
        states[cms] = state
        cms(draw(ROWS, 5)[0], state)[0].square().sum().backward()
        cms(draw(ROWS, 5)[0])[0].square().sum().backward()
    for name, value in states[one].memory.items():
        assert torch.equal(value, states[chain].memory[name])
    for a, b in zip(one.parameters(), chain.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_endless_periods_make_one_plain_mlp():
    """[NL eq. 72] special case: whatever the number of levels, nothing ever differs from the one start."""
    cms = make(NestedCMS, [Level("a", math.inf), Level("b", math.inf)])
    x, _ = draw(ROWS, 7)
    assert list(cms.mlps) == ["b"]
    torch.testing.assert_close(cms(x)[0], cms.mlps["b"](x), atol=1e-12, rtol=1e-12)
    assert cms.initial_state(2).memory == {}


def test_a_frozen_slowest_level_is_the_start_that_every_restart_returns_to():
    """[NL eq. 72]: with the session as the middle level, what it learned lasts until the fast level is reset."""
    levels = [Level("fast", 2, 0.3, reset="document"), Level("mid", "session", 0.3), Level("base", math.inf)]
    cms = make(NestedCMS, levels, chunk_size=2)
    state, updates = learn(cms, LayerState(), *draw(ROWS, 2))
    assert set(updates) == {"fast"}
    start = cms.mlps["base"].up.weight.expand(ROWS, -1, -1)
    assert torch.equal(state.memory["mid.up"], start)
    reset, _ = cms.tick(state, "document")
    assert torch.equal(reset.memory["fast.up"], start)
    rows = torch.tensor([True, False, True])
    learned, updates = cms.tick(state, "session", rows)
    assert set(updates) == {"mid"}
    assert torch.equal(learned.memory["fast.up"][rows], learned.memory["mid.up"][rows])
    assert not torch.equal(learned.memory["fast.up"][rows], start[rows])
    assert torch.equal(learned.memory["fast.up"][1], state.memory["fast.up"][1])
    again, _ = learn(cms, learned, *draw(ROWS, 2, seed=1))
    reset, _ = cms.tick(again, "document")
    assert torch.equal(reset.memory["fast.up"], again.memory["mid.up"])


def test_a_reset_of_a_slower_level_restarts_the_faster_ones():
    levels = [Level("fast", 2, 0.3), Level("slow", 4, 0.3, reset="document")]
    cms = make(NestedCMS, levels, chunk_size=2)
    state = LayerState()
    for n in range(3):
        state, _ = learn(cms, state, *draw(ROWS, 2, seed=n))
    assert not torch.equal(state.memory["fast.up"], state.memory["slow.up"])
    ended, _ = cms.tick(state, "document", torch.tensor([True, False, False]))
    for level in ("fast", "slow"):
        assert torch.equal(ended.memory[f"{level}.up"][0], cms.mlps["slow"].up.weight)
        assert torch.equal(ended.memory[f"{level}.up"][1:], state.memory[f"{level}.up"][1:])
    assert ended.memory["slow.tokens"].tolist() == [0, 2, 2]


def test_anchor_decay_pulls_toward_the_slower_level():
    """By hand: a share of the distance to the slower level's weights, not to the learned start."""
    levels = [Level("fast", 2, 0.3, anchor_decay=0.25), Level("slow", 4, 0.3)]
    cms = make(NestedCMS, levels, chunk_size=2, max_norm=math.inf)
    state = LayerState()
    for n in range(2):
        state, _ = learn(cms, state, *draw(ROWS, 2, seed=n))
    x, target = draw(ROWS, 2, seed=2)
    _, grads = gradients(cms, state, x, target)
    after, _ = learn(cms, state, x, target)
    for part, grad in zip(PARTS, grads, strict=True):
        slow = state.memory[f"slow.{part}"]
        free = state.memory[f"fast.{part}"] - 0.3 * grad
        torch.testing.assert_close(after.memory[f"fast.{part}"], free + 0.25 * (slow - free), atol=1e-13, rtol=1e-13)
    assert not torch.equal(state.memory["slow.up"], cms.mlps["slow"].up.weight.expand(ROWS, -1, -1))


@pytest.mark.parametrize(
    "periods", [(4, 2), (4, 6), (4, 4), ("session", 4), (math.inf, 4), (math.inf, "day"), ("day", "day")]
)
def test_levels_that_cannot_be_nested_name_the_repair(periods):
    levels = [Level("fast", periods[0]), Level("slow", periods[1])]
    with pytest.raises(ValueError, match=r"'slow' has update_period .*'fast'.*from fast to slow.*multiple"):
        make(NestedCMS, levels, chunk_size=2)


@pytest.mark.parametrize(
    "periods", [(2, 4, 8), (2, "session", "day"), (4, math.inf, math.inf), ("turn", "day", math.inf)]
)
def test_levels_from_fast_to_slow_can_be_nested(periods):
    cms = make(NestedCMS, [Level(f"level{i}", period) for i, period in enumerate(periods)], chunk_size=2)
    assert list(cms.mlps) == ["level2"]
