"""Published strategies that take gradient steps, against closed forms, autograd and the path integral."""

import copy
from functools import partial

import pytest
import torch
from strategy_records import SGD, B, C, D, encode, learned, records, weights_of

from everlearn.continual.strategies.base import linear_head, loss_over_batch, loss_over_seen, mlp_head
from everlearn.continual.strategies.ewc import EWC
from everlearn.continual.strategies.expandable_head import ExpandableHead
from everlearn.continual.strategies.fine_tune import FineTune
from everlearn.continual.strategies.gaussian_replay import GaussianReplay
from everlearn.continual.strategies.lwf import LwF, distillation
from everlearn.continual.strategies.meta_trained import Gated, MetaTrained, Rectified, seeded
from everlearn.continual.strategies.progressive import Progressive
from everlearn.continual.strategies.replay import Replay
from everlearn.continual.strategies.si import SI

# elastic springs


def test_the_gradient_of_ewcs_penalty_is_stiffness_times_way():
    ewc = learned(EWC(encode, mlp_head(D, C, 0, 5), C, SGD, strength=3.0), *records())
    ewc.end_of_task()
    learned(ewc, *records(seed=1))
    weights = dict(ewc.network.head.named_parameters())
    grads = torch.autograd.grad(ewc.penalty(), list(weights.values()))
    for (name, weight), grad in zip(weights.items(), grads, strict=True):
        assert ewc.fisher[name].max() > 0
        torch.testing.assert_close(grad, 3.0 * ewc.fisher[name] * (weight - ewc.anchor[name]).detach())


CURVATURE, GOAL = torch.tensor([4.0, 1.0, 0.0]), torch.tensor([1.0, -2.0, 3.0])


def quadratic(logits, y, seen):
    """A loss of the weights alone: the record is a constant 1."""
    return (CURVATURE * (logits[0] - GOAL).square()).sum() / 2


def test_si_measures_the_path_integral_which_on_a_quadratic_is_the_fall_of_the_loss():
    """Each output is a weight plus a bias with equal gradients, so that each of the two earns half of the fall."""
    head = linear_head(1, 3, 0)
    si = SI(encode, head, 3, partial(torch.optim.SGD, lr=1e-3), strength=1.0, damping=0.1, loss=quadratic)
    start = CURVATURE * GOAL.square() / 2
    for _ in range(2000):
        si.observe(torch.ones(1, 1), torch.tensor([0]))
    out = (head.weight.squeeze(1) + head.bias).detach()
    fall = start - CURVATURE * (out - GOAL).square() / 2
    # small steps sum to the integral within the size of a step times the curvature
    torch.testing.assert_close(si.path["bias"], fall / 2, rtol=5e-3, atol=1e-6)
    way = head.bias.detach().clone()
    si.end_of_task()
    torch.testing.assert_close(si.importance["bias"], fall / 2 / (way.square() + 0.1), rtol=5e-3, atol=1e-6)
    assert si.importance["bias"][2] == 0 and not si.path["bias"].any()


def test_sis_penalty_by_hand_and_its_step_counts_no_penalty_into_the_path():
    head = linear_head(1, 3, 0)
    si = SI(encode, head, 3, partial(torch.optim.SGD, lr=0.1), strength=2.0, loss=quadratic)
    si.importance["bias"] = torch.tensor([1.0, 0.0, 0.0])
    si.anchor["bias"] = torch.tensor([-1.0, 0.0, 0.0])
    # bias 0, anchor -1: penalty 2 * 1 * 1, gradient 2 * 2 * 1 * 1 = 4; the loss's own is 4 (0 - 1) = -4
    assert si.penalty().item() == 2.0
    si.observe(torch.ones(1, 1), torch.tensor([0]))
    torch.testing.assert_close(head.bias.detach(), torch.tensor([0.0, -0.2, 0.0]))
    torch.testing.assert_close(si.path["bias"], torch.tensor([0.0, 0.4, 0.0]))


def test_a_weight_whose_way_did_harm_gets_no_spring():
    si = SI(encode, linear_head(1, 3, 0), 3, SGD, strength=1.0)
    si.path["bias"] = torch.tensor([0.2, -0.2, 0.0])
    si.end_of_task()
    # nothing moved, so the way is zero and the damping .1 stands alone
    torch.testing.assert_close(si.importance["bias"], torch.tensor([2.0, 0.0, 0.0]))


def test_si_without_springs_is_fine_tuning():
    x, y = records()
    one = learned(SI(encode, linear_head(D, C, 0), C, SGD, strength=0.0), x, y)
    one.end_of_task()
    other = learned(FineTune(encode, linear_head(D, C, 0), C, SGD), x, y)
    assert torch.equal(learned(one, x, y).network.head.weight, learned(other, x, y).network.head.weight)


# distillation


def test_the_gradient_of_the_distillation_is_the_difference_of_softened_answers():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    teacher = torch.randn(3, 4, dtype=torch.float64, generator=generator)
    (grad,) = torch.autograd.grad(distillation(z, teacher, 2.5), [z])
    torch.testing.assert_close(grad, 2.5 * ((z / 2.5).softmax(1) - (teacher / 2.5).softmax(1)).detach() / 3)


def test_lwf_steps_by_the_new_labels_and_the_old_answers_and_the_teacher_stays():
    x, y = records(classes=2)
    lwf = learned(LwF(encode, linear_head(D, C, 0), C, SGD, strength=1.5, temperature=2.0), x, y)
    lwf.end_of_task()
    teacher = weights_of(lwf.teacher)
    assert lwf.taught.tolist() == [True, True, False, False]
    head = copy.deepcopy(lwf.network.head)
    new, labels = records(B, seed=5, classes=2)
    labels = labels + 2
    logits = head(new)
    loss = loss_over_batch(logits, labels, torch.ones(C, dtype=torch.bool))
    with torch.no_grad():
        q = (lwf.teacher(new)[:, :2] / 2).softmax(1)
    loss = loss - 1.5 * 4 * (q * (logits[:, :2] / 2).log_softmax(1)).sum() / B
    grads = torch.autograd.grad(loss, list(head.parameters()))
    lwf.observe(new, labels)
    for (name, weight), old, grad in zip(lwf.network.head.named_parameters(), head.parameters(), grads, strict=True):
        torch.testing.assert_close(weight.detach(), (old - 0.1 * grad).detach())
        assert torch.equal(weights_of(lwf.teacher)[name], teacher[name])


# replay


def test_replay_never_exceeds_its_bytes_and_uses_them():
    x, y = records(90)
    size = 4 * D + 8
    replay = Replay(encode, linear_head(D, C, 0), C, SGD, max_bytes=7 * size + 5, practice=3)
    for batch in zip(x.split(7), y.split(7), strict=True):
        replay.observe(*batch)
        held = sum(t.untyped_storage().nbytes() for record in replay.kept for t in record)
        assert held <= 7 * size + 5
    assert len(replay.kept) == 7
    assert replay.stores_bytes() == 4 * (D * C + C) + 7 * size


def test_bytes_choose_the_records_that_their_number_would():
    x, y = records(90)
    one = learned(Replay(encode, linear_head(D, C, 0), C, SGD, max_bytes=9 * (4 * D + 8)), x, y)
    other = learned(Replay(encode, linear_head(D, C, 0), C, SGD, capacity=9), x, y)
    assert torch.equal(one.network.head.weight, other.network.head.weight)


def test_replay_refuses_two_bounds_none_and_too_few_bytes():
    for bounds in ({}, {"capacity": 3, "max_bytes": 100}):
        with pytest.raises(ValueError, match="one bound; give a number of records"):
            Replay(encode, linear_head(D, C, 0), C, SGD, **bounds)
    replay = Replay(encode, linear_head(D, C, 0), C, SGD, max_bytes=31)
    with pytest.raises(ValueError, match="max_bytes 31 holds no record, which takes 32 bytes"):
        replay.observe(*records(2))


def test_drawn_features_have_the_classes_means_and_their_common_covariance():
    x, y = records(400, classes=2)
    x, y = x @ torch.eye(D).add(torch.ones(D, D).tril(-1), alpha=0.5), 2 * y + 1
    replay = GaussianReplay(encode, linear_head(D, C, 0), D, C, SGD, practice=20_000, refresh_period=1, shrinkage=1e-4)
    learned(replay, x, y, size=200)
    drawn, labels = replay.draw()
    centred = x.clone()
    assert labels.unique().tolist() == [1, 3]
    for c in (1, 3):
        # 10,000 draws of spreads below 2: a mean is known to .02
        torch.testing.assert_close(drawn[labels == c].mean(0).float(), x[y == c].mean(0), atol=0.08, rtol=0)
        centred[y == c] -= x[y == c].mean(0)
    spread = drawn - replay.statistics.means[(labels - 1) // 2]
    covariance = centred.mT @ centred / 400
    # 20,000 draws: within one per cent of the largest entry, four times over
    torch.testing.assert_close(
        (spread.mT @ spread / 20_000).float(), covariance, atol=0.04 * covariance.max().item(), rtol=0
    )


def test_replay_from_gaussians_steps_on_the_batch_and_what_it_drew():
    x, y = records()
    one = learned(GaussianReplay(encode, linear_head(D, C, 0), D, C, SGD, practice=4), x[:20], y[:20])
    head, twin = copy.deepcopy(one.network.head), copy.deepcopy(one)
    drawn, labels = twin.draw()
    seen = one.network.seen.clone()
    loss = loss_over_seen(head(torch.cat([x[20:25], drawn.float()])), torch.cat([y[20:25], labels]), seen)
    (grad,) = torch.autograd.grad(loss, [head.weight])
    one.observe(x[20:25], y[20:25])
    torch.testing.assert_close(one.network.head.weight, head.weight - 0.1 * grad)


# growing networks


def test_progressive_columns_are_frozen_bit_for_bit_and_later_ones_read_them():
    x, y = records(classes=2)
    net = learned(Progressive(encode, D, C, SGD, hidden=3), x, y)
    net.end_of_task()
    before = weights_of(net.columns[0])
    first = net._logits(x)[0].detach()
    learned(net, x, y + 2)
    assert len(net.columns) == 2 and net.columns[1].read.in_features == 6
    assert all(torch.equal(p, before[name]) and not p.requires_grad for name, p in net.columns[0].named_parameters())
    assert torch.equal(net._logits(x)[0], first)
    hidden = [(x @ c.units.weight.mT + c.units.bias).relu() for c in net.columns]
    expected = torch.cat([hidden[1], hidden[0]], 1) @ net.columns[1].read.weight.mT + net.columns[1].read.bias
    torch.testing.assert_close(net._logits(x)[1], expected)
    assert net.stores_bytes() == 4 * sum(p.numel() for c in net.columns for p in c.parameters())


def test_a_growing_head_without_imprint_is_fine_tuning_and_its_bytes_follow_the_classes():
    x, y = records()
    for loss in (loss_over_seen, loss_over_batch):
        grown = learned(ExpandableHead(encode, D, lr=0.1, imprint=0.0, loss=loss), x, y)
        plain = learned(FineTune(encode, linear_head(D, C, 0), C, SGD, loss), x, y)
        torch.testing.assert_close(grown.weight, plain.network.head.weight.detach()[grown.labels])
        torch.testing.assert_close(grown.bias, plain.network.head.bias.detach()[grown.labels])
    head = ExpandableHead(encode, D, lr=0.1, imprint=0.0, loss=loss_over_seen)
    head.observe(x[:1], y[:1])
    assert head.stores_bytes() == 4 * (D + 1 + D) + 8 + 8


def test_a_new_row_points_from_the_mean_of_all_records_to_its_class():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 6.0]])
    head = ExpandableHead(encode, 2, lr=0.0, imprint=3.0, loss=loss_over_seen)
    head.observe(x, torch.tensor([0, 0, 1]))
    # the mean of all is (1, 2): rows point down and up, and both answer 0 there
    torch.testing.assert_close(head.weight, torch.tensor([[0.0, -3.0], [0.0, 3.0]]))
    torch.testing.assert_close(head.bias, torch.tensor([6.0, -6.0]))
    assert head.predict(x).tolist() == [0, 0, 1]


# meta-learning


def test_the_gate_starts_open_and_the_start_is_the_seeds():
    x, _ = records(5)
    assert torch.equal(seeded(Gated, D, 3, 0)(x), x)
    one, same, other = (seeded(Rectified, D, 3, seed).units.weight for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_meta_training_differentiates_through_the_inner_steps():
    """One inner step on one class, against the same two steps written out with autograd."""
    x, y = records(classes=2)
    net = MetaTrained(encode, seeded(Rectified, D, 3, 0), C, lr=0.5, meta_steps=1, inner_steps=1, batch_size=4)
    net.seen[:2] = True
    net.weight = torch.randn(C, 3, generator=torch.Generator().manual_seed(2))
    twin, start = copy.deepcopy(net.representation), net.weight.clone().requires_grad_()
    generator = torch.Generator().manual_seed(0)
    chosen = y.unique()[torch.randint(2, (1,), generator=generator)]
    own = (y == chosen).nonzero().squeeze(1)
    inner = own[torch.randint(len(own), (4,), generator=generator)]
    asked = torch.cat([inner, torch.randint(len(y), (8,), generator=generator)])
    zeroed = start.clone()
    zeroed[chosen] = 0.0
    (grad,) = torch.autograd.grad(
        loss_over_seen(twin(x[inner]) @ zeroed.mT, y[inner], net.seen), [zeroed], create_graph=True
    )
    moved = zeroed - 0.5 * grad
    optimizer = torch.optim.Adam([*twin.parameters(), start], lr=1e-3)
    loss_over_seen(twin(x[asked]) @ moved.mT, y[asked], net.seen).backward()
    optimizer.step()
    net._meta_train(x, y)
    torch.testing.assert_close(net.representation.units.weight, twin.units.weight)
    torch.testing.assert_close(net.weight, start.detach())


def test_meta_training_happens_once_and_lets_its_records_go():
    x, y = records(classes=2)
    net = MetaTrained(encode, seeded(Rectified, D, 3, 0), C, lr=0.1, meta_steps=3)
    start = weights_of(net.representation)
    learned(net, x, y)
    assert net.stores_bytes() == 4 * (3 * D + 3 + 3 * C) + len(y) * (4 * D + 8)
    net.end_of_task()
    after = weights_of(net.representation)
    assert any(not torch.equal(after[name], start[name]) for name in start)
    assert net.stores_bytes() == 4 * (3 * D + 3 + 3 * C)
    learned(net, x, y + 2).end_of_task()
    assert all(torch.equal(p, after[name]) for name, p in net.representation.named_parameters())
