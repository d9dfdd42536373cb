"""Metrics against a run worked out by hand."""

import math

import pytest
import torch

from everlearn.continual.metrics import report, retention_matrix, run_stream
from everlearn.continual.streams import Split, class_incremental

# three experiences of one class each; class 2 has one test record, so micro and macro differ
LABELS = torch.tensor([0, 0, 1, 1, 2])
EXPERIENCE = torch.tensor([0, 0, 1, 1, 2])
ANSWERS = torch.tensor(
    [
        [0, 0, 0, 0, 0],  # R = [1, -, -]
        [0, 1, 1, 1, 1],  # R = [1/2, 1, -]
        [0, 2, 1, 2, 2],  # R = [1/2, 1/2, 1]
    ]
)


def test_retention_matrix_by_hand():
    got = retention_matrix(ANSWERS, LABELS, EXPERIENCE)
    nan = math.nan
    expected = torch.tensor([[1, nan, nan], [0.5, 1, nan], [0.5, 0.5, 1]], dtype=torch.float64)
    torch.testing.assert_close(got, expected, equal_nan=True)


def test_summary_numbers_by_hand():
    got = report(ANSWERS, LABELS, EXPERIENCE)
    assert got.final == pytest.approx(3 / 5)
    assert got.final_macro == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    assert got.average_incremental == pytest.approx((1 + 3 / 4 + 3 / 5) / 3)
    assert got.forgetting == pytest.approx(((1 - 1 / 2) + (1 - 1 / 2)) / 2)
    assert got.backward_transfer == pytest.approx(((1 / 2 - 1) + (1 / 2 - 1)) / 2)
    assert got.plasticity == pytest.approx(1.0)


def test_forgetting_counts_from_the_best_evening_and_transfer_from_the_first():
    # one record: wrong on its own evening, right on the next, wrong at the end
    labels, experience = torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2])
    answers = torch.tensor([[2, 2, 2], [0, 1, 2], [1, 1, 2]])
    got = report(answers, labels, experience)
    assert got.forgetting == pytest.approx((1 + 0) / 2)
    assert got.backward_transfer == pytest.approx(0.0)


def test_improvement_is_negative_forgetting():
    labels, experience = torch.tensor([0, 1]), torch.tensor([0, 1])
    got = report(torch.tensor([[1, 1], [0, 1]]), labels, experience)
    assert got.forgetting == pytest.approx(-1.0) and got.backward_transfer == pytest.approx(1.0)


def test_one_experience_leaves_nothing_to_forget():
    got = report(torch.tensor([[0, 1]]), torch.tensor([0, 0]), torch.tensor([0, 0]))
    assert (got.forgetting, got.backward_transfer, got.final) == (0.0, 0.0, 0.5)


class Diary:
    """A strategy that writes down what it is told."""

    stores_images = False

    def __init__(self):
        self.batches, self.ends = [], []

    def observe(self, x, y):
        self.batches.append(len(y))

    def predict(self, x):
        return torch.full((len(x),), len(self.batches))

    def stores_bytes(self):
        return 0


class DiaryWithBoundaries(Diary):
    def end_of_task(self):
        self.ends.append(len(self.batches))


@pytest.mark.parametrize(("kind", "ends"), [(Diary, []), (DiaryWithBoundaries, [2, 4])])
def test_each_record_is_observed_once_and_boundaries_are_told_only_to_those_who_ask(kind, ends):
    data = Split(torch.zeros(10, 1), torch.arange(10) % 2)
    stream = class_incremental(data, data, 1, seed=0)
    diary = kind()
    answers = run_stream(diary, stream, batch_size=3)
    assert diary.batches == [3, 2, 3, 2] and diary.ends == ends
    assert answers.tolist() == [[2] * 10, [4] * 10]
