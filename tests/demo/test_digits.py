"""The week of digits: the shape of its JSON, what is exact in it, and (slow) what it must reach."""

import json
import math
import statistics

import pytest
import torch

from everlearn.continual.metrics import report, run_stream
from everlearn.continual.streams import digits, week_of_digits
from everlearn.demo import digits as demo
from everlearn.demo.digits_methods import BATCH_SIZE, CHOSEN, METHODS, SEARCHED, random_features

ROW = {"final", "final_sd", "task_a", "task_a_sd", "after_day", "after_day_sd", "stores_kb", "stores_images"}


@pytest.fixture(scope="module")
def one_week():
    calls = []
    methods = dict(METHODS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    result = demo.run(1, lambda done, total, what: calls.append((done, total, what)))
    torch.set_num_threads(threads)
    assert methods == METHODS
    return result, calls


def test_every_method_has_its_row_and_every_number_is_finite(one_week):
    result, calls = one_week
    assert set(METHODS) <= set(result)
    for name in METHODS:
        row = result[name]
        assert set(row) >= ROW and len(row["after_day"]) == 5
        assert row["after_day"][-1] == row["task_a"] and 0 <= row["final"] <= 1
        assert row["stores_images"] == (name == "replay") and row["needs_boundaries"] == (name == "ewc")
    assert json.loads(json.dumps(result)) == result and "NaN" not in json.dumps(result)
    assert [done for done, _, _ in calls] == list(range(calls[0][1]))


def test_reverse_and_forget_are_exact(one_week):
    assert one_week[0]["reverse_difference"] == 0.0 and one_week[0]["forget_difference"] == 0.0


def test_the_differences_see_a_difference():
    # the zeros above would mean nothing if these functions could not tell two memories apart
    train, _, test = digits()
    features, week = random_features(), week_of_digits(0, train, test)
    whole, part = demo._empty_memory(features), demo._empty_memory(features)
    whole.write(features(train.x), train.y)
    part.write(features(train.x[1:]), train.y[1:])
    assert demo._difference(whole, part, features(week.test.x)) > 1e-6


def test_joint_takes_the_better_model_on_validation(one_week):
    joint = one_week[0]["joint"]
    best = max(joint["candidates"].values(), key=lambda c: c["validation"])
    assert joint["candidates"][joint["which"]] == best and joint["final"] == best["final"]


def test_the_picture_is_the_first_monday_image_of_seed_0(one_week):
    picture = one_week[0]["picture"]
    train, _, test = digits()
    monday = week_of_digits(0, train, test).experiences[0].classes
    index = next(i for i, label in enumerate(test.y.tolist()) if label in monday)
    assert picture["pixels"] == test.x[index].tolist() and picture["label"] == int(test.y[index])
    assert set(picture["answers"]) == set(METHODS) and all(len(days) == 5 for days in picture["answers"].values())


def test_no_seed_is_refused():
    with pytest.raises(ValueError, match="seeds 0"):
        demo.run(0)


@pytest.mark.slow
def test_five_weeks_reach_what_the_page_promises():
    result = demo.run(5)
    assert result["precision"]["final"] >= result["joint"]["final"] - 0.01
    assert result["fine_tune"]["after_day"][0] - result["fine_tune"]["task_a"] > 0.5
    assert result["precision"]["task_a"] > 0.9
    assert not any(math.isnan(value) for name in METHODS for value in result[name]["after_day"])


@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHED)
def test_the_recorded_search_is_what_a_search_finds(name):
    train, validation, _ = digits()
    for eta, mean, spread in SEARCHED[name]:
        finals = []
        # the class orders of benchmarks/tune_digits.py
        for seed in range(100, 105):
            week = week_of_digits(seed, train, validation)
            strategy = METHODS[name](random_features(), CHOSEN[name] | {"eta": eta}, seed)
            answers = run_stream(strategy, week, BATCH_SIZE)
            finals.append(report(answers, week.test.y, week.test_experience).final)
        # two of 270 images: rounding differs between machines
        assert statistics.mean(finals) == pytest.approx(mean, abs=0.008)
        assert statistics.stdev(finals) == pytest.approx(spread, abs=0.02)
    assert max(SEARCHED[name], key=lambda row: row[1])[0] == CHOSEN[name]["eta"]
