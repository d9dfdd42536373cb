"""The alarm of a memory: known spectra, and a memory that is full by construction."""

import pytest
import torch

from everlearn.memory import AssociativeMemory, Matrix, NonParametric, recall, stable_rank
from everlearn.memory.objectives import dot


def test_stable_rank_of_known_spectra():
    assert stable_rank(torch.eye(5)).item() == pytest.approx(5)
    assert stable_rank(torch.diag(torch.tensor([2.0, 1.0, 1.0]))).item() == pytest.approx(1.5)
    assert stable_rank(torch.outer(torch.arange(1.0, 4), torch.ones(7))).item() == pytest.approx(1, abs=1e-5)
    batch = torch.stack([torch.zeros(3, 3), 1e-20 * torch.eye(3)])
    assert stable_rank(batch).tolist() == pytest.approx([0, 3])
    # the alarm has to go on in the other rows
    batch = torch.stack([torch.full((3, 3), torch.nan), torch.eye(3), torch.full((3, 3), torch.inf)])
    assert stable_rank(batch).tolist() == pytest.approx([torch.nan, 3, torch.nan], nan_ok=True)


def test_orthogonal_pairs_all_come_back_and_fill_the_matrix_one_by_one():
    """n orthonormal keys with orthonormal values: the matrix has n singular values of 1."""
    memory = AssociativeMemory(Matrix(6), eta=1.0)
    keys = torch.eye(6).unsqueeze(0)
    values = keys.roll(2, dims=1)
    for count in (1, 3, 6):
        state, _ = memory.write(memory.init(1), keys[:, :count], values[:, :count])
        assert stable_rank(state.memory["M"]).item() == pytest.approx(count)
        held = recall(memory, state, keys, values)
        # an answer of zero is equally far from all values, and the first of equals counts as the nearest
        expected = [n < count or n == 0 for n in range(6)]
        assert held.share.item() == pytest.approx(sum(expected) / 6)
        assert held.cosine.item() == pytest.approx(count / 6)


def test_rows_are_judged_apart_and_a_wrong_answer_counts_as_wrong():
    memory = AssociativeMemory(NonParametric(2, scale=1e3), rule=None)
    keys = torch.eye(2).expand(2, 2, 2)
    values = torch.stack([torch.eye(2), -torch.eye(2)])
    state, _ = memory.write(memory.init(2), keys, values)
    held = recall(memory, state, keys, values.flip(0))
    assert held.cosine.tolist() == pytest.approx([-1, -1])
    assert held.share.tolist() == [0, 0]
    assert recall(memory, state, keys, values).share.tolist() == [1, 1]


def test_a_key_that_repeats_drowns_the_others():
    """With dot, S += v k^T of one pair grows without end: stable rank falls to 1, the others are no longer heard."""
    memory = AssociativeMemory(Matrix(4), dot, eta=1.0)
    torch.manual_seed(0)
    keys = torch.nn.functional.normalize(torch.randn(1, 4, 4), dim=-1)
    state, _ = memory.write(memory.init(1), keys, torch.eye(4).unsqueeze(0))
    before = stable_rank(state.memory["M"]).item()
    often = (keys[:, :1].expand(1, 1000, 4), torch.eye(4)[None, :1].expand(1, 1000, 4))
    state, _ = memory.write(state, *often)
    assert stable_rank(state.memory["M"]).item() < 1.01 < before
