"""Retention: what stays of a memory, by hand.  [NL eq. 92]"""

import pytest
import torch

from everlearn.memory import Anchor, Decay, Keep, TrustRegion

OLD = torch.tensor([[[3.0, 0.0]], [[0.0, 1.0]]])  # [B, 1, 2]
START = torch.tensor([[1.0, 1.0]])


def test_before_by_hand():
    assert torch.equal(Keep().before(OLD, START), OLD)
    assert Decay(0.5).before(OLD, START).tolist() == [[[1.5, 0.0]], [[0.0, 0.5]]]
    assert Decay(torch.tensor([1.0, 0.0]).reshape(-1, 1, 1)).before(OLD, START).tolist() == [[[3.0, 0.0]], [[0.0, 0.0]]]
    assert Anchor(0.25).before(OLD, START).tolist() == [[[2.5, 0.25]], [[0.25, 1.0]]]
    assert torch.equal(TrustRegion().before(OLD, START), OLD)


def test_after_changes_nothing_but_too_long_steps():
    new = OLD + torch.tensor([[[3.0, 4.0]], [[0.3, 0.4]]])
    for retention in (Keep(), Decay(0.5), Anchor(0.5)):
        assert torch.equal(retention.after(new, OLD), new)
    bound = TrustRegion(2.0).after(new, OLD)
    torch.testing.assert_close(bound[0], torch.tensor([[4.2, 1.6]]))  # 5 long, shortened to 2 = (1.2, 1.6)
    assert torch.equal(bound[1], new[1])


def test_a_trust_region_has_derivatives_at_a_step_of_zero():
    new = torch.zeros(1, 1, 2, dtype=torch.float64, requires_grad=True)
    old = torch.zeros(1, 1, 2, dtype=torch.float64)
    (first,) = torch.autograd.grad(TrustRegion(1.0).after(new, old).sum(), new, create_graph=True)
    assert first.tolist() == [[[1.0, 1.0]]]
    long = torch.tensor([[[3.0, 4.0]]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: TrustRegion(1.0).after(x, old), long)
    assert torch.autograd.gradgradcheck(lambda x: TrustRegion(1.0).after(x, old), long)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Decay(1.5), "alpha 1.5 is outside"),
        (lambda: Anchor(-0.1), "decay -0.1 is outside"),
        (lambda: TrustRegion(0), "radius 0 is not above zero"),
    ],
)
def test_a_value_outside_its_range_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
