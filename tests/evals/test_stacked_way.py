"""A stacked model in the harness equals a baseline where the two must agree, and keeps what its levels keep."""

import torch

from everlearn.convert import stack_levels
from everlearn.evals.stacked_way import StackedWay
from everlearn.evals.ways import ClippedDescent, Frozen, Steps, named
from everlearn.evals.windows import Window
from everlearn.levels import Level
from tests.evals.tiny_llama import tiny_llama

IDS = torch.arange(41) % 7
WHOLE = Window(64, 4)  # no document here is longer
FAST = Level("fast", 4, eta=0.5)


def way(*levels, weights="last_down", learn=True):
    return StackedWay(stack_levels(tiny_llama(), weights=weights, levels=levels, chunk_size=4), WHOLE, learn=learn)


def test_the_last_down_projection_learns_as_the_same_weights_do_in_a_copy():
    """No key or value depends on it, so that carried ones are those that would be computed again."""
    ours = way(FAST)
    theirs = Steps(
        tiny_llama(), WHOLE, named("layers.1.mlp.down_proj.weight"), lambda p: ClippedDescent(p, eta=FAST.eta)
    )
    torch.testing.assert_close(ours.read(IDS), theirs.read(IDS), atol=1e-10, rtol=0)
    torch.testing.assert_close(ours.score(IDS), theirs.score(IDS), atol=1e-10, rtol=0)
    assert (ours.score(IDS) - Frozen(tiny_llama(), WHOLE).score(IDS)).abs().max() > 0.01
    assert ours.state_bytes() == theirs.state_bytes() == 8 * 8 * 12


def test_without_learning_it_is_the_frozen_model():
    ours, frozen = way(FAST, weights="mlp", learn=False), Frozen(tiny_llama(), WHOLE)
    torch.testing.assert_close(ours.read(IDS), frozen.read(IDS), atol=1e-10, rtol=0)
    torch.testing.assert_close(ours.score(IDS), frozen.score(IDS), atol=1e-10, rtol=0)


def test_the_end_of_a_document_is_the_event_that_resets_a_level():
    lasting, passing = way(FAST), way(Level("fast", 4, eta=0.5, reset="document"))
    frozen = Frozen(tiny_llama(), WHOLE).score(IDS)
    for one in (lasting, passing):
        one.read(IDS)
        one.end_document()
    torch.testing.assert_close(passing.score(IDS), frozen, atol=1e-10, rtol=0)
    assert (lasting.score(IDS) - frozen).mean() < -0.01


def test_scoring_and_asking_change_nothing():
    one = way(FAST)
    one.read(IDS)
    before = {name: t.clone() for name, t in one.state.memory["stack"].items()}
    one.score(IDS)
    one.logits(IDS[None])
    assert all(torch.equal(t, before[name]) for name, t in one.state.memory["stack"].items())
