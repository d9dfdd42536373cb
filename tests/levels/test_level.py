"""When a level is due, worked out by hand.  [NL def. 2, eq. 71]"""

import math

import pytest
import torch

from everlearn.levels import Level, check_levels


def test_a_period_is_due_from_its_last_token_on():
    """[NL eq. 71]: with a period of 4, rows that hold 0, 3, 4 and 9 tokens are due: no, no, yes, yes."""
    tokens = torch.tensor([0, 3, 4, 9])
    assert Level("fast", 4).due(tokens).tolist() == [False, False, True, True]
    assert Level("fast", 4).due(tokens, event="session").tolist() == [False] * 4


def test_an_event_makes_the_rows_due_that_hold_tokens():
    level, tokens = Level("slow", "session"), torch.tensor([0, 1, 99])
    assert level.due(tokens, event="session").tolist() == [False, True, True]
    assert level.due(tokens, event="document").tolist() == [False] * 3
    assert level.due(tokens).tolist() == [False] * 3


def test_an_endless_period_is_never_due():
    """[NL def. 2]: frequency zero, a frozen level."""
    assert Level("frozen", math.inf).due(torch.tensor([10**12])).tolist() == [False]


@pytest.mark.parametrize("wrong", [0, -4, 2.5, "", math.nan, -math.inf])
def test_a_period_must_count_tokens_or_name_an_event(wrong):
    with pytest.raises(ValueError, match=r"update_period .* of level 'a' .*give an integer >= 1"):
        Level("a", wrong)


@pytest.mark.parametrize("wrong", [-0.1, math.inf, math.nan])
def test_eta_is_finite_and_not_negative(wrong):
    with pytest.raises(ValueError, match=r"eta .* of level 'a' must be finite and >= 0"):
        Level("a", 4, eta=wrong)


@pytest.mark.parametrize("wrong", [-0.1, 1.0, math.nan])
def test_anchor_decay_is_a_share(wrong):
    with pytest.raises(ValueError, match=r"anchor_decay .* of level 'a' must lie in \[0, 1\)"):
        Level("a", 4, anchor_decay=wrong)


def test_levels_fit_a_chunk_size_that_divides_every_period():
    levels = [Level("fast", 64), Level("mid", 256), Level("slow", "session"), Level("frozen", math.inf)]
    assert check_levels(levels, 64) == tuple(levels)
    assert levels[0].eta == 0.3  # the step that was measured to work
    repair = r"choose a divisor \(16, 32, 64\) or set update_period=96"
    with pytest.raises(ValueError, match=rf"chunk_size 48 does not divide update_period 64 of level 'fast'; {repair}"):
        check_levels(levels, 48)
    # a prime has two divisors
    with pytest.raises(ValueError, match=r"choose a divisor \(1, 5\) or set update_period=6"):
        check_levels([Level("fast", 5)], 3)
    with pytest.raises(ValueError, match="no level was given"):
        check_levels([], 48)
    with pytest.raises(ValueError, match="level name 'fast' must be unique"):
        check_levels([levels[0], levels[0]], 64)


def test_a_running_mean_has_no_period_of_its_own():
    mean = Level("slow", mean_of="fast", decay=0.9)
    assert mean.update_period == math.inf
    assert mean.due(torch.tensor([10**12])).tolist() == [False]
    assert check_levels([Level("fast", 64), mean], 64)[1] is mean
    with pytest.raises(ValueError, match=r"update_period 128 and mean_of='fast'; a running mean moves when.*leave"):
        Level("slow", 128, mean_of="fast")
    with pytest.raises(ValueError, match=r"anchor_decay 0\.1 of level 'slow' has no effect.*set it on level 'fast'"):
        Level("slow", mean_of="fast", anchor_decay=0.1)
    with pytest.raises(ValueError, match="update_period 0 of level 'slow'"):
        Level("slow")


@pytest.mark.parametrize("wrong", [-0.1, 1.0, math.nan])
def test_the_decay_of_a_mean_is_a_share(wrong):
    with pytest.raises(ValueError, match=r"decay .* of level 'slow' must lie in \[0, 1\)"):
        Level("slow", mean_of="fast", decay=wrong)


@pytest.mark.parametrize("followed", ["slow", "other", "frozen", "mean"])
def test_a_mean_needs_a_level_that_steps(followed):
    levels = [Level("fast", 4), Level("frozen", math.inf), Level("mean", mean_of="fast")]
    with pytest.raises(ValueError, match=rf"'slow' is the mean of '{followed}', which is no level that steps.*'fast'"):
        check_levels([*levels, Level("slow", mean_of=followed)], 4)


def test_two_means_of_one_level_are_refused():
    levels = [Level("fast", 4), Level("a", mean_of="fast"), Level("b", mean_of="fast", decay=0.5)]
    with pytest.raises(ValueError, match=r"'a' and 'b' are both the mean of 'fast'.*keep one"):
        check_levels(levels, 4)


def test_plain_data_makes_the_level_again_and_says_no_more_than_before():
    """A level without a mean is written as it was before there were means, so that older files stay what they are."""
    levels = [Level("fast", 4, 0.9, 0.02, "document"), Level("frozen", math.inf), Level("slow", mean_of="fast")]
    data = [level.to_dict() for level in levels]
    assert data[0] == {"name": "fast", "update_period": 4, "eta": 0.9, "anchor_decay": 0.02, "reset": "document"}
    assert data[1]["update_period"] == "never"
    assert data[2]["mean_of"] == "fast" and data[2]["decay"] == 0.97
    assert [Level.from_dict(item) for item in data] == levels


def test_a_period_that_is_not_over_takes_its_share_at_the_event_that_finishes_it():
    """[NL eq. 71]: 3 of 4 tokens are three terms of its sum, so three quarters of a step; none is no step."""
    level, tokens = Level("fast", 4, finish="document"), torch.tensor([0, 1, 3])
    assert level.due(tokens, "document").tolist() == [False, True, True]
    assert level.share(tokens, "document").tolist() == [0.0, 0.25, 0.75]
    assert level.due(tokens, "turn").tolist() == level.due(tokens).tolist() == [False] * 3
    assert level.share(tokens, "turn") is None and level.share(tokens, None) is None
    assert Level("fast", 4).due(tokens, "document").tolist() == [False] * 3


def test_what_finishes_a_period_is_kept_and_needs_a_period_in_tokens():
    level = Level("fast", 4, finish="document")
    assert Level.from_dict(level.to_dict()) == level
    assert "finish" not in Level("fast", 4).to_dict()
    for wrong, words in (
        ({"finish": 3}, "finish 3 of level 'a' is no event"),
        (
            {"finish": "document", "update_period": "session"},
            "needs a period in tokens, .* is 'session'",
        ),
        ({"finish": "document", "update_period": math.inf}, "needs a period in tokens, .* is inf"),
        ({"finish": "document", "update_period": 0, "mean_of": "b"}, "has no effect on a running mean"),
    ):
        with pytest.raises(ValueError, match=words):
            Level("a", **{"update_period": 4, **wrong})
