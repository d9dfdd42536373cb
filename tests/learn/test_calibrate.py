"""The search for a rate: every row of the table is a reading with that rate, and the best has worse neighbours."""

import math
from dataclasses import replace

import pytest
import torch

from everlearn.learn import Learner, calibrate_lr
from everlearn.learn.calibrate import _descend
from everlearn.levels import Level
from everlearn.memory.codec import digest
from tests.learn.words import Words
from tests.tiny import LEVELS, TEXT, byte_model

TEXTS = [TEXT * 2, b"a dog, a cat and a mat; " * 4]
LENGTH = 36


def with_eta(scale: float, levels=LEVELS):
    return byte_model(levels=[replace(level, eta=level.eta * scale) for level in levels])


def test_every_row_is_a_reading_with_that_rate():
    """Two homes: a learner over a model that was built with the rates gives the same numbers."""
    found = calibrate_lr(byte_model(), TEXTS, length=LENGTH)
    assert len(found.table) >= 5
    frozen = [Learner(byte_model()).score(text[:LENGTH]).bits_per_byte for text in TEXTS]
    for trial in found.table:
        learner = Learner(with_eta(trial.scale))
        bits = [learner.read(text[:LENGTH], f"user {i}").bits_per_byte for i, text in enumerate(TEXTS)]
        assert trial.bits_per_byte == pytest.approx(bits, abs=1e-10)
        expected = math.sqrt(math.prod(bits) / math.prod(frozen))
        assert trial.relative == pytest.approx(expected, abs=1e-10)


def test_the_chosen_rate_has_worse_neighbours_and_its_controls_beside_it():
    found = calibrate_lr(byte_model(levels=[replace(level, eta=0.001) for level in LEVELS]), TEXTS, length=LENGTH)
    assert found.scale > 1
    value = {trial.scale: trial.relative for trial in found.table}
    assert value[found.scale] == min(value.values()) < 1
    assert value[found.scale / 3] > value[found.scale] < value[found.scale * 3]
    assert [trial.scale / found.scale for trial in found.controls] == pytest.approx([0.3, 0.1])
    assert set(found.controls) < set(found.table)
    for levels in found.levels.values():
        assert [level.eta for level in levels] == [0.001 * found.scale] * 2
        assert [level.name for level in levels] == ["fast", "slow"]
    text = found.lines()
    assert sum("chosen" in line for line in text) == 1
    assert sum("control" in line for line in text) == 2
    assert len(text) == 1 + len(found.table)


def test_every_trial_is_shown_once_as_it_is_found():
    shown = []
    found = calibrate_lr(byte_model(), TEXTS, length=LENGTH, on_trial=shown.append)
    assert shown[0].scale == 0 and tuple(shown[-2:]) == found.controls
    assert sorted(shown, key=lambda trial: trial.scale) == list(found.table)


def test_rates_that_diverge_are_refused_and_leave_model_and_memory_alone():
    model = byte_model(levels=[Level("only", 4, 1e200)])
    before = digest(model.state_dict())
    found = calibrate_lr(model, TEXTS, length=LENGTH, tries=4)
    assert found.scale == 0
    assert [trial.relative for trial in found.table[1:]] == [math.inf] * 4
    assert found.table[1].bits_per_byte == () and any("diverged" in line for line in found.lines())
    assert found.controls == ()
    assert found.levels["blocks.0.mlp"] == model.config.levels
    assert digest(model.state_dict()) == before
    assert [memory.levels for memory in model.memories().values()] == [model.config.levels] * 2


@pytest.mark.parametrize("best", range(-4, 6))
def test_the_walk_finds_the_lowest_point_and_looks_at_both_sides_of_it(best):
    """Over n -> |n - best|, within nine looks."""
    asked = []

    def value(n: int) -> float:
        asked.append(n)
        return abs(n - best)

    found = _descend(value, 9)
    assert found == best
    assert len(asked) <= 9 and {best - 1, best + 1} <= set(asked)


def test_the_walk_stops_at_its_bound():
    asked = []
    assert _descend(lambda n: asked.append(n) or -n, 5) == 4
    assert asked == [0, 1, 2, 3, 4]


def test_bits_are_over_bytes_whatever_the_tokens_are():
    found = calibrate_lr(Words(), [TEXT], length=30, tries=2)
    ids = Words().encode(TEXT)[:30]
    text = Words().decode(ids)
    assert found.table[0].bits_per_byte[0] == pytest.approx(Learner(Words()).score(text).bits_per_byte, abs=1e-12)


REFUSED = {
    "no text": (lambda: calibrate_lr(byte_model(), [], length=9), "no text was given"),
    "a short text": (lambda: calibrate_lr(byte_model(), ["abc"], length=9), "text 0 has 3 tokens, fewer than length 9"),
    "one chunk": (lambda: calibrate_lr(byte_model(), TEXTS, length=4), "length 4 is no more than a chunk of 4"),
    "no level": (lambda: calibrate_lr(byte_model(levels=()), TEXTS, length=9), "no level of this model learns"),
    "a factor": (lambda: calibrate_lr(byte_model(), TEXTS, length=9, factor=1.0), "factor 1.0 must be above 1"),
    "not finite": (
        lambda: calibrate_lr(_broken(), TEXTS, length=9),
        "the frozen model's own loss on these texts is not finite",
    ),
}


def _broken():
    model = byte_model()
    with torch.no_grad():
        model.norm.weight.fill_(math.nan)
    return model


@pytest.mark.parametrize("call, message", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_searched_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
