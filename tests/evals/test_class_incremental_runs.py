"""Rows are measured once, whatever interrupts; settings are chosen without a look at the test records."""

import json
from dataclasses import replace

import pytest
import torch

from everlearn.continual.streams import Split
from everlearn.evals.class_incremental import Scenario
from everlearn.evals.class_incremental import runs as runs_module
from everlearn.evals.class_incremental.choose import candidates, choose, score
from everlearn.evals.class_incremental.runs import FLOOR, Job, run_jobs

CLASSES, DIM = 6, 8


def records(per_class, seed):
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(CLASSES).repeat(per_class)
    return Split(3 * torch.eye(DIM)[y] + torch.randn(len(y), DIM, generator=draw), y)


@pytest.fixture
def scenario():
    return Scenario("corners", tuple("abcdef"), records(20, 0), records(4, 1), records(10, 2), 2, 10)


JOBS = [Job("nearest_mean", {}, "tasks", seed) for seed in (0, 1)] + [Job(FLOOR, {"strength": 1.0}, "tasks", 0)]


def without_time(rows):
    return [{key: value for key, value in row.items() if "seconds" not in key} for row in rows]


@pytest.mark.slow
def test_rows_do_not_depend_on_how_many_run_at_a_time(scenario, tmp_path):
    one = run_jobs(JOBS, scenario, tmp_path / "one", fingerprint="x")
    two = run_jobs(JOBS, scenario, tmp_path / "two", fingerprint="x", workers=2)
    assert without_time(one) == without_time(two) and len(one) == 3
    assert one[0]["retention"] != one[1]["retention"]


def test_a_row_is_measured_once_and_an_interrupted_run_goes_on(scenario, tmp_path, monkeypatch):
    calls, measure, seen = [], runs_module._measure, []

    def counted(job, given):
        calls.append(job)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(job, given)

    monkeypatch.setattr(runs_module, "_measure", counted)
    with pytest.raises(KeyboardInterrupt):
        run_jobs(JOBS, scenario, tmp_path, fingerprint="x")
    rows = run_jobs(JOBS, scenario, tmp_path, fingerprint="x", on_row=seen.append)
    assert calls == [JOBS[0], JOBS[1], JOBS[1], JOBS[2]] and seen == JOBS
    assert run_jobs(JOBS, scenario, tmp_path, fingerprint="x") == rows and len(calls) == 4
    # other data, other settings and another seed are other rows
    run_jobs(JOBS[:1], scenario, tmp_path, fingerprint="y")
    run_jobs([replace(JOBS[2], settings={"strength": 0.1})], scenario, tmp_path, fingerprint="x")
    assert len(calls) == 6
    kept = [json.loads(file.read_text())["job"] for file in tmp_path.iterdir()]
    assert {"strategy": FLOOR, "settings": {"strength": 0.1}, "stream": "tasks", "seed": 0} in kept


def test_settings_are_chosen_on_validation_records_alone(scenario, tmp_path):
    tried = choose(["streaming_lda"], scenario, "tasks", tmp_path / "a", fingerprint="x")["streaming_lda"]
    assert len(tried) == len(candidates("streaming_lda")) and tried[0][1] == max(score for _, score in tried)
    spoiled = replace(scenario, test=Split(torch.zeros(6, DIM), torch.arange(6)))
    assert choose(["streaming_lda"], spoiled, "tasks", tmp_path / "b", fingerprint="x")["streaming_lda"] == tried
    empty = replace(scenario, validation=Split(scenario.test.x[:0], scenario.test.y[:0]))
    with pytest.raises(ValueError, match="has no validation records"):
        choose(["streaming_lda"], empty, "tasks", tmp_path / "c", fingerprint="x")


def test_ties_go_to_the_first_of_the_grid_and_classes_count_as_records_do(scenario, tmp_path):
    far = replace(scenario, validation=Split(torch.eye(DIM)[:CLASSES] * 9, torch.arange(CLASSES)))
    tried = choose(["streaming_lda"], far, "tasks", tmp_path, fingerprint="x")["streaming_lda"]
    assert [settings for settings, _ in tried] == list(candidates("streaming_lda"))
    assert score({"final": 0.5, "final_macro": 0.7}) == pytest.approx(0.6)
