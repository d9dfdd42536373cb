"""A period that a document's end cuts short: a share of the step, by hand and in its place.  [NL eq. 71]"""

import math

import pytest
import torch

from everlearn.layers import CMS
from everlearn.levels import Level
from tests.layers.variants import ROWS, draw, learn, make

FAST = {"eta": 0.5, "anchor_decay": 0.25}


def after(levels, tokens: list[int], **options):
    """Return a memory, its state after gradients of so many tokens, and the gradients that were collected."""
    cms = make(CMS, levels, chunk_size=2, **options)
    state = cms.initial_state(ROWS)
    for n, count in enumerate(tokens):
        state, _ = learn(cms, state, *draw(ROWS, 2, seed=n), tokens=torch.full((ROWS,), count))
    return cms, state


def test_the_share_of_a_step_is_worked_out_by_hand():
    """[NL eq. 71]: 3 of 4 tokens move the weights by 3/4 of what the whole step on their mean gradient would."""
    cms, state = after([Level("fast", 4, finish="document", **FAST)], [2, 1])
    start = cms.initial_state(ROWS).memory
    done, updates = cms.tick(state, "document")
    assert updates["fast"].rows.tolist() == [True] * ROWS
    for part in ("gate", "up", "down"):
        weight, total = state.memory[f"fast.{part}"], state.memory[f"fast.{part}.grad"]
        mean = total / 3
        norm = mean.flatten(1).norm(dim=1).clamp_min(1).reshape(-1, 1, 1)
        stepped = weight - 0.5 * mean / norm
        stepped = stepped + 0.25 * (start[f"fast.{part}"] - stepped)
        expected = weight + 0.75 * (stepped - weight)
        torch.testing.assert_close(done.memory[f"fast.{part}"], expected, atol=1e-12, rtol=0)
        assert not done.memory[f"fast.{part}.grad"].any()
    assert done.memory["fast.tokens"].tolist() == [0] * ROWS


def test_a_sum_counts_its_tokens_by_itself():
    """With reduce="sum" the step on the sum of three terms is taken whole."""
    levels = [Level("fast", 4, eta=0.5, finish="document")]
    cms, state = after(levels, [2, 1], reduce="sum", max_norm=math.inf)
    done, _ = cms.tick(state, "document")
    expected = state.memory["fast.up"] - 0.5 * state.memory["fast.up.grad"]
    torch.testing.assert_close(done.memory["fast.up"], expected, atol=1e-12, rtol=0)


def test_the_mean_follows_the_share_before_the_fast_level_restarts_from_it():
    pair = [Level("fast", 4, reset="document", finish="document"), Level("slow", mean_of="fast", decay=0.75)]
    cms, state = after(pair, [2, 1])
    alone, _ = cms.write(state, "document")
    done, updates = cms.tick(state, "document")
    assert set(updates) == {"fast", "slow"}
    start = state.memory["slow.up"]
    expected = 0.75 * start + 0.25 * alone.memory["fast.up"]
    torch.testing.assert_close(done.memory["slow.up"], expected, atol=1e-12, rtol=0)
    assert torch.equal(done.memory["fast.up"], done.memory["slow.up"])
    assert not torch.equal(alone.memory["fast.up"], state.memory["fast.up"])


@pytest.mark.parametrize("tokens", [[2, 2], [2, 2, 2, 2]])
def test_after_whole_periods_nothing_is_left_to_finish(tokens):
    """Special case: the weights are those without `finish`, bit for bit, and the event moves nothing."""
    _, state = after([Level("fast", 4, **FAST)], tokens)
    cms, same = after([Level("fast", 4, finish="document", **FAST)], tokens)
    done, updates = cms.tick(same, "document")
    assert updates == {}
    assert all(torch.equal(value, done.memory[name]) for name, value in state.memory.items())


def test_only_the_rows_in_which_the_document_ended_step():
    cms, state = after([Level("fast", 4, finish="document")], [1])
    rows = torch.zeros(ROWS, dtype=torch.bool)
    rows[0] = True
    done, _ = cms.tick(state, "document", rows)
    for name, value in state.memory.items():
        assert torch.equal(done.memory[name][1:], value[1:]), name
    assert not torch.equal(done.memory["fast.up"][0], state.memory["fast.up"][0])
