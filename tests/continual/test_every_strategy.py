"""What every strategy of the table keeps to, whatever it is."""

import functools

import pytest
import torch

from everlearn.continual.metrics import report, run_stream
from everlearn.continual.strategies.base import AsksForDomain, TakesBoundaries
from everlearn.continual.strategies.table import BATCH_SIZE, BUDGET, TABLE
from everlearn.continual.streams import Split, class_incremental

D, C = 16, 4
BOUNDARIES = {
    "ewc",
    "si",
    "lwf",
    "progressive",
    "oml",
    "anml",
    "retrain_each_task",
    "one_model_per_domain",
}
STORES = {
    "replay",
    "nearest_neighbours",
    "joint_logistic",
    "joint_mlp",
    "retrain_each_task",
    "retrain_every_k",
    "one_model_per_domain",
}
ROWS = list(TABLE)


def settings_of(name):
    """Return the end of the grid, where steps are largest, with sizes that suit a small case.

    Two rows end where nothing can be learned here: springs of 1e4 hold everything, and behind a label mask an MLP's
    random answers about new classes never compete with the old ones.
    """
    small = {"features": 100, "units": 16, "hidden": 16, "period": 20, "ridge": 1.0}
    chosen = TABLE[name].grid[{"ewc": 3, "fine_tune_masked": 2}.get(name, -1)]
    return {key: small[key] if key in small and value else value for key, value in chosen.items()}


def make(name, seed=0):
    return TABLE[name].build(settings_of(name), D, C, seed)


def stream(seed=0, each=60):
    """Two tasks of two classes, far apart; features have the length that 768 of unit size have."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(C).repeat(each)
    x = 27 * torch.eye(C, D)[y] + torch.randn(len(y), D, generator=generator)
    return class_incremental(Split(x, y), Split(x, y), 2, seed=seed)


@functools.cache
def finished(name):
    strategy, data = make(name), stream()
    return strategy, data, run_stream(strategy, data, BATCH_SIZE)


@pytest.mark.parametrize("name", ROWS)
def test_each_task_is_known_right_after_it(name):
    _, data, answers = finished(name)
    found = report(answers, data.test.y, data.test_experience)
    assert found.retention.diagonal().min() > 0.9, found.retention


@pytest.mark.parametrize("name", ROWS)
def test_a_run_repeats_reading_changes_nothing_and_answers_are_classes_seen(name):
    strategy, data, answers = finished(name)
    again, seen = make(name), set()
    state = torch.random.get_rng_state()
    for number, experience in enumerate(data.experiences):
        for x, y in experience.batches(BATCH_SIZE):
            again.observe(x, y)
            seen |= set(y.tolist())
            assert set(again.predict(data.test.x[::7]).tolist()) <= seen
        if isinstance(again, TakesBoundaries):
            again.end_of_task()
        if isinstance(again, AsksForDomain):
            assert torch.equal(again.predict_in(data.test.x, data.test_experience), answers[number])
        else:
            assert torch.equal(again.predict(data.test.x), answers[number])
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator was used"
    assert strategy.stores_bytes() == again.stores_bytes() > 0


@pytest.mark.parametrize("name", ROWS)
def test_what_it_asks_for_and_stores_is_said(name):
    strategy, data, _ = finished(name)
    assert isinstance(strategy, TakesBoundaries) == (name in BOUNDARIES)
    assert isinstance(strategy, AsksForDomain) == (name == "one_model_per_domain")
    assert strategy.stores_images == (name in STORES)
    if name in STORES - {"replay"}:
        assert strategy.stores_bytes() >= sum(len(e.records.y) for e in data.experiences) * (4 * D + 8)


@pytest.mark.parametrize("name", ROWS)
def test_labels_of_test_records_are_never_asked_for(name):
    """The answers to some records are those to them among others: nothing is masked by what is being asked."""
    strategy, data, _ = finished(name)
    rows = torch.arange(0, len(data.test.y), 31)
    if isinstance(strategy, AsksForDomain):
        all_of_them = strategy.predict_in(data.test.x, data.test_experience)[rows]
        assert torch.equal(strategy.predict_in(data.test.x[rows], data.test_experience[rows]), all_of_them)
    else:
        assert torch.equal(strategy.predict(data.test.x[rows]), strategy.predict(data.test.x)[rows])


def test_every_search_has_the_same_budget():
    assert all(1 <= len(row.grid) <= BUDGET for row in TABLE.values())
    for row in TABLE.values():
        assert len({tuple(sorted(settings.items())) for settings in row.grid}) == len(row.grid)


@pytest.mark.parametrize("name", [name for name in ROWS if name.endswith("_one_rate")])
def test_a_control_searches_what_its_twin_searches(name):
    assert TABLE[name].grid == TABLE[name.removesuffix("_one_rate")].grid
