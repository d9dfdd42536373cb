"""Capacity and health of a memory against cases whose answer is known without one."""

import pytest
import torch

from everlearn.evals.capacity import Pairs, draw_pairs, recall_curve, watch
from everlearn.memory import AssociativeMemory, Matrix, NonParametric
from everlearn.memory.objectives import dot, l2
from everlearn.memory.retention import Decay

DIM = 8


def orthogonal_pairs(draws: int = 3) -> Pairs:
    eye = torch.eye(DIM).expand(draws, DIM, DIM)
    return Pairs(eye, eye.flip(1))


def test_keys_have_unit_length_and_the_common_part():
    pairs = draw_pairs(4, 400, 64, common=0.5, seed=1)
    assert torch.allclose(pairs.keys.norm(dim=-1), torch.ones(4, 400), atol=1e-5)
    cosines = pairs.keys @ pairs.keys.mT
    others = cosines[:, ~torch.eye(400, dtype=torch.bool)]
    assert others.mean().item() == pytest.approx(0.5, abs=0.03)
    with pytest.raises(ValueError, match="common 1"):
        draw_pairs(1, 1, 4, common=1.0)


@pytest.mark.parametrize("objective", [dot, l2])
def test_orthogonal_keys_are_all_recalled_up_to_the_dimension(objective):
    curve = recall_curve(AssociativeMemory(Matrix(DIM), objective, eta=1.0), orthogonal_pairs(), (1, 4, DIM))
    assert all(share.tolist() == [1.0, 1.0, 1.0] for share in curve.values())


def test_a_memory_that_fades_at_once_recalls_only_the_newest():
    curve = recall_curve(AssociativeMemory(Matrix(DIM), dot, Decay(0.0), eta=1.0), orthogonal_pairs(), (4,))
    assert curve[4].tolist() == [0.25] * 3 or curve[4].tolist() == [0.5] * 3  # of zero answers the first is nearest


def test_what_keeps_every_pair_recalls_every_pair():
    pairs = draw_pairs(2, 200, DIM, seed=2)
    curve = recall_curve(AssociativeMemory(NonParametric(DIM, scale=100.0), rule=None), pairs, (50, 200))
    assert curve[200].tolist() == [1.0, 1.0]


def test_health_of_orthogonal_pairs_by_hand():
    """Eight orthonormal pairs under the dot product make a permutation matrix: norm sqrt(8), stable rank 8."""
    (health,) = watch(AssociativeMemory(Matrix(DIM), dot, eta=1.0), orthogonal_pairs(), (DIM,), window=4)
    assert health.norm == pytest.approx(8**0.5, rel=1e-6)
    assert health.stable_rank == pytest.approx(8, rel=1e-6)
    assert health.surprise == pytest.approx(1.0)  # |v k^T| of unit vectors
    assert (health.recent, health.oldest) == (1.0, 1.0)


def test_a_full_delta_memory_keeps_the_newest_and_loses_the_oldest():
    health = watch(AssociativeMemory(Matrix(DIM), l2, eta=1.0), draw_pairs(10, 400, DIM, seed=3), (400,), window=4)[0]
    assert health.recent > 0.8 > 0.6 > health.oldest  # chance is 1/4
