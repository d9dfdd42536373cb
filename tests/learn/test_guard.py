"""A guard over what lasts: measured on a probe, shrunk, rolled back, reset, and reported."""

import math

import pytest
import torch

from everlearn.learn import GuardEvent, Learner, ProbeGuard
from everlearn.levels import Level
from tests.learn.words import Words
from tests.tiny import TEXT, byte_model, fingerprint

PROBE = "an old general text, of which nothing is ever taught."
LEVELS = (Level("fast", 4, 0.5, reset="document"), Level("slow", mean_of="fast", decay=0.5))
WEIGHTS = ("gate", "up", "down")


def taught(text=b"zzzz qqqq " * 9, levels=LEVELS, **options):
    """Return a guard, its model and the states before and after a document of another kind."""
    model = byte_model(levels=levels)
    learner = Learner(model)
    before = learner.state("ada")
    learner.read(text, "ada")
    return ProbeGuard(model, PROBE, **options), before, learner.state("ada")


def distance(model_start, state) -> float:
    return math.sqrt(
        sum(
            float((state.memory[layer][f"slow.{part}"] - start[f"slow.{part}"]).detach().square().sum())
            for layer, start in model_start.memory.items()
            if "slow.up" in start
            for part in WEIGHTS
        )
    )


def test_the_rise_is_the_difference_of_two_scores_of_the_probe():
    guard, before, after = taught()
    learner = Learner(byte_model(levels=LEVELS))
    learner.restore("ada", after)
    expected = learner.score(PROBE, "ada").bits_per_byte - learner.score(PROBE).bits_per_byte
    assert guard.rise(after) == pytest.approx(expected, abs=1e-12)
    assert guard.rise(before) == 0
    assert guard.rise(after) > 0.05


def test_what_does_little_damage_is_kept_bit_for_bit():
    guard, before, after = taught(max_rise=100.0)
    kept, event = guard(before, after)
    assert event is None
    assert fingerprint(kept) == fingerprint(after)


def test_the_learned_part_is_shrunk_until_the_probe_reads_well_enough():
    """By hand: each try halves the distance of every level to its learned start."""
    guard, before, after = taught(levels=(Level("fast", 4, 0.05, reset="document"), LEVELS[1]))
    rises = [guard.rise(guard._shrunk(after, 0.5**n)) for n in range(4)]
    assert rises == sorted(rises, reverse=True)
    guard.max_rise = (rises[1] + rises[2]) / 2
    kept, event = guard(before, after)
    assert event == GuardEvent("shrunk", rises[0], rises[2], guard.max_rise)
    assert distance(before, kept) == pytest.approx(distance(before, after) / 4, rel=1e-12)
    assert "shrunk" in str(event) and "is allowed" in str(event)


def test_without_tries_the_memory_goes_back_to_what_it_was_before_the_document():
    model = byte_model(levels=LEVELS)
    learner = Learner(model, guard=ProbeGuard(model, PROBE, max_rise=0.0, tries=0))
    start = learner.state("ada")
    score = learner.read(b"zzzz qqqq " * 9, "ada")
    assert score.event is not None and score.event.action == "rolled back"
    after = learner.state("ada")
    for layer, tensors in start.memory.items():
        assert all(torch.equal(value, after.memory[layer][name]) for name, value in tensors.items())
    assert after.tokens_seen.tolist() == [90 - 1]  # what was read is counted; the last token was never consumed
    assert after.context == {}


def test_a_memory_that_was_bad_before_goes_back_to_the_start():
    guard, _, after = taught(max_rise=0.0, tries=0)
    kept, event = guard(after, after)
    assert event is not None and event.action == "reset" and event.after == 0
    fresh = byte_model(levels=LEVELS).initial_state(1)
    assert torch.equal(kept.memory["blocks.0.mlp"]["slow.up"], fresh.memory["blocks.0.mlp"]["slow.up"])


def test_users_in_one_batch_are_judged_apart_and_open_documents_are_not_judged():
    model = byte_model(levels=LEVELS)
    alone, guarded = Learner(byte_model(levels=LEVELS)), Learner(model)
    texts = {"ada": b"zzzz qqqq " * 9, "bob": PROBE * 2}
    alone.read(texts)
    guarded.guard = ProbeGuard(model, PROBE, max_rise=0.0)
    scores = guarded.read(texts, end="open")
    assert scores["ada"].event is None
    guarded = Learner(model, guard=ProbeGuard(model, PROBE, max_rise=0.0))
    scores = guarded.read(texts)
    assert scores["ada"].event is not None and scores["bob"].event is None
    assert fingerprint(guarded.state("bob")) == fingerprint(alone.state("bob"))


def test_the_guard_counts_bytes_whatever_the_tokens_are():
    model = Words(levels=LEVELS)
    learner = Learner(model)
    learner.read(TEXT, "ada")
    expected = learner.score(TEXT, "ada").bits_per_byte - learner.score(TEXT).bits_per_byte
    assert ProbeGuard(model, TEXT).rise(learner.state("ada")) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_rise": -0.1}, "max_rise -0.1 must be finite"),
        ({"share": 1.0}, r"share 1.0 must lie in \(0, 1\)"),
        ({"tries": -1}, "tries -1 be >= 0"),
        ({"probe": "a"}, "the probe has 1 tokens"),
    ],
)
def test_a_guard_that_could_not_work_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ProbeGuard(byte_model(), **{"probe": PROBE, **options})
