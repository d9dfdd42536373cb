"""Places are replaced one after the other, every phase is scored, and a run that stopped goes on."""

from __future__ import annotations

import json
import math

import pytest
import torch

from everlearn.convert import Continuum, Delta, load_replaced, next_token
from everlearn.levels import Level
from everlearn.recipes.replacement import ReplacementRecipe, bits_per_byte, gradual, windows
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


MIXED = ("block.1.attention", "block.0.mlp", "block.0.attention")


def student_of(order, resume=None, **changes):
    """Run a recipe to its end; return the last student."""
    levels = (Level("fast", 4, eta=0.5), Level("still", math.inf))
    kinds = {"mlp": Continuum(levels=levels, hidden_dim=5), "chunk_size": 4}
    recipe = ReplacementRecipe(**{"order": order, "local": 3, "whole": 2, **SIZES, **kinds, **changes})
    stages = list(gradual(tiny(), TEXT, recipe, lambda _: 0.0, resume=resume))
    return stages[-1].student if stages else resume


@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_run_that_goes_on_ends_bit_for_bit_where_one_that_did_not_stop_ends(tmp_path, done):
    student_of(MIXED[:done]).save(tmp_path)
    first = load_replaced(tmp_path)
    before = first.fingerprint()
    resumed = student_of(MIXED, resume=first)
    assert resumed.fingerprint() == student_of(MIXED).fingerprint()
    assert first.fingerprint() == before and resumed.config.names() == tuple(sorted(MIXED))


def test_a_run_goes_on_with_its_own_model_and_recipe_alone():
    first = student_of(MIXED[:1])
    for change in ({"order": MIXED[::-1]}, {"attention": Delta(gated=True)}, {"chunk_size": 2}):
        with pytest.raises(ValueError, match=r"holds memories in block\.1\.attention, and the recipe begins with"):
            student_of(**{"order": MIXED, **change}, resume=first)
    recipe = ReplacementRecipe(order=MIXED, **SIZES)
    with pytest.raises(ValueError, match="the hybrid was made of another model: its SHA-256 is"):
        list(gradual(tiny(intermediate_size=32), TEXT, recipe, lambda _: 0.0, resume=first))
    with pytest.raises(ValueError, match=r"'block\.1' names no place; write it like 'block\.3\.attention'"):
        student_of(("block.1",))


def test_bits_per_byte_are_those_of_the_library():
    """Two windows of 20 tokens have 38 targets; here each stands for 3 bytes."""
    model, asked = tiny(), tokens(2, 20, seed=8)
    nats = model(asked, labels=asked).loss.item()
    assert bits_per_byte(model, asked, 3 * 38) == pytest.approx(nats / math.log(2) / 3, rel=1e-5)


def test_a_recipe_is_plain_data():
    shown = json.loads(json.dumps(ReplacementRecipe(order=MIXED).to_dict()))
    assert shown["order"] == list(MIXED) and shown["objective"] == "kl"
    assert (shown["attention"]["name"], shown["mlp"]["kind"]) == ("delta", "independent")
