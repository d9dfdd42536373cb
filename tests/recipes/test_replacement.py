"""Attention is replaced one block after the other, and every phase is scored."""

from __future__ import annotations

import math

import pytest
import torch

from everlearn.convert import next_token
from everlearn.recipes.replacement import ReplacementRecipe, gradual, windows
from tests.convert.families_fixture import tiny, tokens

ORDER = ("block.1.attention", "block.0.attention")
SIZES = {"batch_size": 2, "length": 12}
TEXT = tokens(1, 400)[0]


def run(**changes):
    """Return (replaced, phase, layers, score, loss) of each stage."""
    recipe = ReplacementRecipe(**{"order": ORDER, "local": 3, "whole": 2, **SIZES, **changes})
    asked = tokens(2, 20, seed=8)

    def evaluate(student):
        with torch.no_grad():
            return float(next_token(student(asked)[0], asked, asked))

    return [
        (s.replaced, s.phase, tuple(s.student.config.attention), s.score, s.loss)
        for s in gradual(tiny(), TEXT, recipe, evaluate)
    ]


def test_blocks_are_replaced_in_order_and_scored_after_every_phase():
    stages = run()
    assert [stage[:3] for stage in stages] == [
        (count, phase, layers) for count, layers in ((1, (1,)), (2, (0, 1))) for phase in ("swap", "local", "whole")
    ]
    scores = [stage[3] for stage in stages]
    assert len(set(scores)) == 6  # every phase changes the hybrid
    assert [math.isnan(stage[4]) for stage in stages] == [True, False, False] * 2
    assert repr(run()) == repr(stages)


def test_a_phase_without_steps_changes_nothing():
    stages = run(local=0, whole=0)
    assert stages[0][3] == stages[1][3] == stages[2][3]


def test_steps_are_reported_as_they_are_done():
    told = []
    recipe = ReplacementRecipe(order=ORDER[1:], local=2, whole=1, **SIZES)
    list(gradual(tiny(), TEXT, recipe, lambda _: 0.0, on_step=lambda *done: told.append(done[:3])))
    assert told == [(1, "local", 1), (1, "local", 2), (1, "whole", 1)]


def test_windows_are_pieces_of_the_text_and_the_same_for_the_same_seed():
    recipe = ReplacementRecipe(order=(), **SIZES)
    first, again = next(windows(TEXT, recipe)), next(windows(TEXT, recipe))
    assert torch.equal(first, again) and first.shape == (2, 12)
    text = TEXT.tolist()
    assert all(any(text[i : i + 12] == row for i in range(len(text))) for row in first.tolist())


def test_a_text_shorter_than_a_window_is_refused():
    with pytest.raises(ValueError, match="the text has 12 tokens, one window needs 13; give a longer text"):
        list(gradual(tiny(), TEXT[:12], ReplacementRecipe(order=ORDER[1:], **SIZES), lambda _: 0.0))
