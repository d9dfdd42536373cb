"""Sketched orthogonal weight modification: exact at full rank, less below, never divergent.  [ours; NL eq. 47]"""

import pytest
import torch

from everlearn.rules import gd, momentum, owm, owm_low_rank
from everlearn.rules.directions import frequent_directions, second_moment
from tests.rules.test_owm import losses, overlapping_tasks, run


def eigenvalues_below_zero(matrix):
    return float(torch.linalg.eigvalsh(matrix).clamp_max(0).abs().max())


def test_the_second_moment_by_hand():
    """Keys (3, 4), (0, 2) and 0: (.36 .48; .48 .64) and (0 0; 0 1), divided by three."""
    keys = torch.tensor([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]])
    expected = torch.tensor([[0.36, 0.48], [0.48, 1.64]]) / 3
    torch.testing.assert_close(second_moment(keys), expected)


@pytest.mark.parametrize("rows", [3, 20])
def test_frequent_directions_by_hand(rows):
    """Squared lengths 9, 4, 1 along axes, rank 2: all fall by 1, so 8 and 3 are left; also from many small rows."""
    lengths = torch.tensor([2.0, 3.0, 1.0]).double()
    parts = torch.diag(lengths)
    if rows == 20:
        parts = (parts / 20**0.5).repeat(20, 1)
    sketch, lost = frequent_directions(torch.zeros(1, 3).double(), parts, 2)
    torch.testing.assert_close(sketch.abs(), torch.tensor([[0.0, 8**0.5, 0.0], [3**0.5, 0.0, 0.0]]).double())
    torch.testing.assert_close(lost, torch.ones(1, 1).double())


@pytest.mark.parametrize("rank", [1, 3, 6, 8])
def test_a_sketch_never_holds_more_than_was_added_and_at_most_what_it_lost_less(rank):
    """0 <= S - B^T B <= (sum of the losses) I, the bound of Ghashami et al.; nothing is lost at rank 8 = in."""
    rows = torch.randn(12, 5, 8, dtype=torch.float64)
    sketch, losses_so_far = torch.zeros(1, 8).double(), 0.0
    for block in rows:
        sketch, lost = frequent_directions(sketch, block, rank)
        losses_so_far += float(lost)
    missing = (rows.mT @ rows).sum(0) - sketch.mT @ sketch
    assert sketch.shape == (rank, 8)
    # rounding of sums of about 100
    assert eigenvalues_below_zero(missing) < 1e-12
    assert eigenvalues_below_zero(losses_so_far * torch.eye(8).double() - missing) < 1e-12
    assert (losses_so_far == 0) == (rank == 8)


@pytest.mark.parametrize("rank", [8, 30])
def test_at_full_rank_it_is_the_exact_rule(rank):
    """[NL eq. 47] 30 steps of three random keys against `owm` refreshed in every step, at a step of ten too."""
    target = torch.randn(4, 8, dtype=torch.float64)
    blocks = torch.randn(30, 3, 8, dtype=torch.float64)
    stream = [(lambda W, X=X: (W - target) @ X.mT @ X / 3, X) for X in blocks]
    for eta in (0.5, 10.0):
        exact = run(owm, stream, eta=eta, refresh_period=1, kappa=2.0)
        torch.testing.assert_close(run(owm_low_rank, stream, eta=eta, rank=rank, kappa=2.0), exact)


def test_it_protects_no_input_more_than_the_exact_rule_does():
    """The step along a gradient G is G P: x^T P x is at least the exact one for every x."""
    keys = torch.randn(40, 3, 8, dtype=torch.float64)
    eye, slots, exact = torch.eye(8).double(), {}, {}
    for block in keys:
        settings = {"eta": 1e-3, "beta": 0.0}
        low, slots = owm_low_rank(0 * eye, eye, block, slots, rank=3, **settings)
        full, exact = owm(0 * eye, eye, block, exact, refresh_period=1, **settings)
        assert eigenvalues_below_zero((full - low) / 1e-3) < 1e-12
        assert eigenvalues_below_zero(low / 1e-3 + eye) < 1e-12


def test_the_more_it_remembers_the_less_old_tasks_lose():
    """Eight tasks at 60 degrees: the old loss falls with the rank, from that of momentum to that of the exact rule."""
    inputs, targets, stream = overlapping_tasks()
    old = [losses(run(owm_low_rank, stream, eta=3.0, rank=rank), inputs, targets)[1] for rank in (1, 4, 8)]
    assert old[0] > old[1] > old[2]
    assert old[2] <= 0.02


@pytest.mark.parametrize("eta", [3.0, 10.0, 100.0])
def test_a_full_sketch_bounds_its_steps(eta):
    """Rank 1 and eight directions: a plain step of this size overflows, and this one stays within the targets' size."""
    _, targets, stream = overlapping_tasks(steps=1)
    stream = stream * 100
    assert not float(run(gd, stream, eta=eta).abs().max()) < 1e20
    assert float(run(owm_low_rank, stream, eta=eta, rank=1, beta=0.0).abs().max()) < 10 * float(targets.abs().max())


def test_without_protection_it_is_momentum():
    _, _, stream = overlapping_tasks(steps=3)
    got = run(owm_low_rank, stream, eta=0.1, kappa=0.0, rank=8)
    torch.testing.assert_close(got, run(momentum, stream, eta=0.1))


def test_its_memory_is_rank_rows():
    _, slots = owm_low_rank(torch.zeros(4, 100), torch.randn(4, 100), torch.randn(300, 100), {}, eta=0.1, rank=7)
    assert {name: slot.numel() for name, slot in slots.items()} == {"m": 400, "mass": 1, "sketch": 700, "lost": 1}
