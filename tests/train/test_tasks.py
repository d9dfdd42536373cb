"""Training on tasks: its schedule and its growing examples by hand, and that it learns what a table can hold."""

import math

import pytest
import torch
from torch import nn

from everlearn.train.tasks import TaskTraining, train_task


def test_examples_grow_in_proportion_and_then_stay():
    growing = TaskTraining(steps=100, rows=1, length=256, first_length=32)
    assert [growing.length_at(step) for step in (0, 15, 30, 60, 99)] == [32, 88, 144, 256, 256]
    assert {TaskTraining(steps=9, rows=1, length=40).length_at(step) for step in range(9)} == {40}


class Table(nn.Module):
    """Scores for the token after each token, and the rate of every step that was taken on it."""

    def __init__(self):
        super().__init__()
        self.scores = nn.Embedding(3, 6)
        nn.init.zeros_(self.scores.weight)

    def forward(self, ids):
        return self.scores(ids), None


def draw(rows, length, generator):
    tokens = torch.randint(0, 3, (rows, length), generator=generator)
    counted = torch.ones_like(tokens, dtype=torch.bool)
    counted[:, 0] = False
    return tokens, 4 + tokens % 2, counted


def test_a_table_learns_its_answers_and_nothing_about_other_tokens():
    table, generator = Table(), torch.Generator().manual_seed(0)
    losses = train_task(table, draw, range(4, 6), TaskTraining(steps=60, rows=4, length=9, lr=0.3, warmup=5), generator)
    assert losses[0] == pytest.approx(math.log(2)), "two answers, none preferred: the others are no choice"
    assert losses[-1] < 0.01
    assert table.scores.weight[:, :4].abs().max() == 0
    assert table.scores.weight[:, 4:].argmax(1).tolist() == [0, 1, 0]
    assert not table.training


def test_the_rate_rises_to_its_peak_and_falls_to_a_tenth(monkeypatch):
    rates = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda o: rates.append(o.param_groups[0]["lr"]) or step(o))
    config = TaskTraining(steps=30, rows=1, length=3, lr=0.2, warmup=10)
    train_task(Table(), draw, range(4, 6), config, torch.Generator())
    assert rates[0] == pytest.approx(0.02) and rates[10] == pytest.approx(0.2) == pytest.approx(max(rates))
    assert rates[20] == pytest.approx(0.2 * (0.1 + 0.9 * 0.5)) and 0.02 < rates[-1] < 0.0212
    assert rates[10:] == sorted(rates[10:], reverse=True)
