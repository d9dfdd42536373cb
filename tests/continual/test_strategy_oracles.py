"""Published strategies against closed forms, autograd, the path integral and scikit-learn."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression as SklearnLogistic
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from everlearn.continual.features import RandomReLU
from everlearn.continual.strategies.base import linear_head, loss_over_batch, loss_over_seen, mlp_head, squared_error
from everlearn.continual.strategies.ewc import EWC
from everlearn.continual.strategies.expandable_head import ExpandableHead
from everlearn.continual.strategies.fine_tune import FineTune
from everlearn.continual.strategies.gaussian_replay import GaussianReplay
from everlearn.continual.strategies.hope_memory import HopeMemory
from everlearn.continual.strategies.joint import Joint, LogisticRegression
from everlearn.continual.strategies.klda import RandomFourier, klda
from everlearn.continual.strategies.lwf import LwF, distillation
from everlearn.continual.strategies.meta_trained import Gated, MetaTrained, Rectified, seeded
from everlearn.continual.strategies.nearest_mean import NearestMean
from everlearn.continual.strategies.nearest_neighbours import NearestNeighbours
from everlearn.continual.strategies.owm_head import PreconditionedHead
from everlearn.continual.strategies.per_domain import OneModelPerDomain
from everlearn.continual.strategies.precision import Precision
from everlearn.continual.strategies.progressive import Progressive
from everlearn.continual.strategies.ranpac import ranpac
from everlearn.continual.strategies.records import Records, Trainer
from everlearn.continual.strategies.replay import Replay
from everlearn.continual.strategies.retrain import RetrainEachTask, RetrainEvery
from everlearn.continual.strategies.si import SI
from everlearn.memory.precision import PrecisionMemory
from everlearn.ops.delta_rule import naive
from everlearn.rules import gd, least_squares, momentum, owm

D, C, B = 6, 4, 5
SGD = partial(torch.optim.SGD, lr=0.1)


def encode(x):
    return x.float()


def records(count=60, seed=0, classes=C, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (count,), generator=generator)
    return torch.randn(classes, D, generator=generator)[y] * 2 + spread * torch.randn(count, D, generator=generator), y


def learned(strategy, x, y, size=B):
    for batch in zip(x.split(size), y.split(size), strict=True):
        strategy.observe(*batch)
    return strategy


def weights_of(head):
    return {name: p.detach().clone() for name, p in head.named_parameters()}


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


# sums: means, covariances and ridge


def test_nearest_mean_is_sklearns_nearest_centroid():
    x, y = records(200, spread=2.0)
    ours = learned(NearestMean(encode, D, C), x, y)
    theirs = NearestCentroid().fit(x.numpy(), y.numpy())
    test = records(200, seed=1, spread=3.0)[0]
    assert ours.predict(test).tolist() == theirs.predict(test.numpy()).tolist()


@pytest.mark.parametrize("shrinkage", [0.01, 0.3])
def test_streaming_lda_is_sklearns_lda_with_even_priors(shrinkage):
    x, y = records(200, spread=2.0)
    x = (x / 2**-10).round() * 2**-10
    ours = learned(Precision(encode, PrecisionMemory(D, shrinkage=shrinkage)), x, y)
    counts = torch.bincount(y).double() / len(y)
    # the covariance within the classes, each weighed by its share, shrunk toward the isotropic one of the same trace
    scatter = sum(float(n) * np.cov(x[y == c].double().numpy().T, bias=True) for c, n in enumerate(counts))
    shrunk = (1 - shrinkage) * scatter + shrinkage * np.trace(scatter) / D * np.eye(D)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=Fixed(shrunk), priors=np.full(C, 1 / C))
    theirs.fit(x.double().numpy(), y.numpy())
    test = records(300, seed=1, spread=3.0)[0].double()
    expected = torch.from_numpy(theirs.decision_function(test.numpy()))
    scores = ours.memory.scores(test)
    # both are known up to what all classes share
    torch.testing.assert_close(scores - scores[:, :1], expected - expected[:, :1], rtol=1e-8, atol=1e-8)


class Fixed:
    """Hand a covariance to scikit-learn, which asks for one of each class and adds them up by the priors."""

    def __init__(self, covariance):
        self.covariance_ = covariance

    def fit(self, x):
        return self


def test_ranpac_is_sklearns_ridge_without_intercept_on_the_same_random_features():
    x, y = records(200)
    ours = learned(ranpac(encode, D, features=30, shrinkage=0.02, seed=3), x, y)
    psi = RandomReLU(D, 30, seed=3)(x).double()
    psi = (psi / 2.0**-16).round() * 2.0**-16
    strength = 0.02 / 0.98 * float(psi.square().sum()) / 30
    theirs = Ridge(alpha=strength, fit_intercept=False, solver="cholesky").fit(psi.numpy(), np.eye(C)[y.numpy()])
    test = RandomReLU(D, 30, seed=3)(records(50, seed=1)[0]).double()
    # (T / N) ((1 - s) G / N + s tr(G) / (N M) I)^-1 is ridge regression over 1 - s
    expected = torch.from_numpy(theirs.predict(test.numpy())) / 0.98
    torch.testing.assert_close(ours.memory.scores(test), expected, rtol=1e-7, atol=1e-9)


def test_recursive_ridge_is_sklearns_ridge_in_batches_or_record_by_record():
    x, y = records(40)
    theirs = Ridge(alpha=2.0, fit_intercept=False, solver="cholesky")
    theirs.fit(x.double().numpy(), np.eye(C)[y.numpy()])
    for size in (1, 7, 40):
        head = PreconditionedHead(lambda x: x.double(), D, C, partial(least_squares, ridge=2.0), squared_error)
        head.weight = head.weight.double()
        learned(head, x, y, size)
        torch.testing.assert_close(head.weight, torch.from_numpy(theirs.coef_), rtol=1e-9, atol=1e-10)


def test_a_preconditioned_head_hands_gradient_and_inputs_to_its_rule():
    """With gd it is fine-tuning without bias; with OWM and kappa 0 it is momentum."""
    x, y = records()
    plain = torch.nn.Linear(D, C, bias=False)
    torch.nn.init.zeros_(plain.weight)
    tuned = learned(FineTune(encode, plain, C, SGD), x, y)
    ours = learned(PreconditionedHead(encode, D, C, partial(gd, eta=0.1), loss_over_seen), x, y)
    torch.testing.assert_close(ours.weight, tuned.network.head.weight.detach())
    one = learned(PreconditionedHead(encode, D, C, partial(owm, eta=0.1, kappa=0.0), loss_over_seen), x, y)
    other = learned(PreconditionedHead(encode, D, C, partial(momentum, eta=0.1), loss_over_seen), x, y)
    torch.testing.assert_close(one.weight, other.weight)


def test_fourier_features_approximate_the_gaussian_kernel_and_klda_is_lda_on_them():
    x = records(30)[0]
    features = RandomFourier(D, 50_000, gamma=0.05)
    psi = features(x).double()
    kernel = (-0.05 * torch.cdist(x.double(), x.double()).square()).exp()
    # 50,000 draws of products below 2: five standard errors, for 900 entries
    torch.testing.assert_close(psi @ psi.mT / 50_000, kernel, atol=0.025, rtol=0)
    x, y = records(100)
    ours = learned(klda(encode, D, features=20, gamma=0.1, shrinkage=0.1, seed=4), x, y)
    memory = PrecisionMemory(20, shrinkage=0.1)
    memory.write(RandomFourier(D, 20, gamma=0.1, seed=4)(x), y)
    assert ours.predict(x).tolist() == memory.predict(RandomFourier(D, 20, gamma=0.1, seed=4)(x))
    with pytest.raises(ValueError, match="not above zero; give sizes >= 1 and a gamma"):
        RandomFourier(D, 20, gamma=0)


# everything kept


@pytest.mark.parametrize("k", [1, 4, 9])
def test_nearest_neighbours_are_sklearns(k):
    x, y = records(200, spread=2.0)
    ours = learned(NearestNeighbours(encode, C, k=k), x, y)
    theirs = KNeighborsClassifier(k, algorithm="brute").fit(x.numpy(), y.numpy())
    test = records(200, seed=1, spread=3.0)[0]
    assert ours.predict(test).tolist() == theirs.predict(test.numpy()).tolist()
    assert ours.stores_bytes() == 200 * (4 * D + 8)


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_joint_logistic_regression_is_sklearns_on_all_records(classes):
    x, y = records(80, classes=classes)
    y = y + (C - classes)
    ours = learned(Joint(encode, C, LogisticRegression(C, strength=0.3)), x, y)
    test = records(60, seed=1)[0]
    if classes == 1:
        assert ours.predict(test).unique().tolist() == [C - 1]
        return
    theirs = SklearnLogistic(C=0.3, max_iter=300).fit(x.numpy(), y.numpy())
    assert ours.predict(test).tolist() == theirs.predict(test.numpy()).tolist()


def trainer(epochs=2):
    return Trainer(lambda: linear_head(D, C, 0), SGD, C, epochs=epochs, batch_size=16)


def test_training_once_on_everything_is_joint_training():
    """A retrained model, one trained every so many records and the joint bound agree when they see the same."""
    x, y = records(64)
    joint = learned(Joint(encode, C, trainer()), x, y)
    each = learned(RetrainEachTask(encode, C, trainer()), x, y)
    each.end_of_task()
    every = learned(RetrainEvery(encode, C, trainer(), period=64), x, y)
    expected = trainer()(x, y)
    for strategy in (joint, each, every):
        assert torch.equal(strategy.predict(x), expected(x).argmax(1))
        assert strategy.records.visits == 128 and strategy.records.seconds > 0
    assert each.stores_bytes() == every.stores_bytes() == 64 * (4 * D + 8) + 4 * (D * C + C)


def test_a_trainer_takes_the_steps_of_fine_tuning_in_its_order():
    x, y = records(20)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    plain = FineTune(encode, linear_head(D, C, 0), C, SGD)
    plain.network.see(y)
    learned(plain, x[order], y[order], 16)
    assert torch.equal(trainer(epochs=1)(x, y).weight, plain.network.head.weight)


def test_retraining_counts_what_all_trainings_cost_and_knows_no_class_before():
    x, y = records(40, classes=2)
    every = RetrainEvery(encode, C, trainer(), period=20)
    every.observe(x[:10], torch.full((10,), 3))
    assert every.predict(x).unique().tolist() == [3] and every.model is None
    learned(every, x[:30], y[:30], 10)
    # at 20 and at 40 records, two epochs each
    assert every.records.visits == 2 * (20 + 40)
    every.observe(x[:5], torch.full((5,), 2))
    # even where the model would say so
    every.model.bias[2] = 99.0
    assert 2 not in every.predict(x).tolist()


def test_a_domains_model_is_trained_on_its_records_alone_and_the_oracle_sends_to_it():
    (x, y), (z, w) = records(classes=2), records(seed=3, classes=2)
    strategy = learned(OneModelPerDomain(encode, C, trainer()), x, y)
    strategy.end_of_task()
    learned(strategy, z, w + 2).end_of_task()
    first, second = trainer()(x, y), trainer()(z, w + 2)
    both = torch.cat([x, z])
    domain = torch.tensor([0] * len(x) + [1] * len(z))
    expected = torch.cat([first(x)[:, :2].argmax(1), 2 + second(z)[:, 2:].argmax(1)])
    assert torch.equal(strategy.predict_in(both, domain), expected)
    assert torch.equal(strategy.predict_in(z, torch.full((len(z),), 7)), expected[len(x) :])
    assert torch.equal(strategy.predict(z), expected[len(x) :])
    assert strategy.records.visits == 2 * (len(x) + len(z))


def test_records_keep_copies():
    x, y = records(4)
    kept = Records()
    kept.add(x, y)
    x.zero_()
    assert kept.features[0].abs().sum() > 0 and len(kept) == 4


# the gated delta memory


@pytest.mark.parametrize("own_row", [False, True])
def test_the_hope_memory_is_the_literal_delta_rule_record_by_record(own_row):
    """[NL eq. 64-65, 92] A row that is not written keeps its own value: v_c = S_c k, and nothing decays there."""
    x, y = records(23)
    memory = learned(HopeMemory(encode, D, C, eta=0.4, alpha=0.9, own_row=own_row), x, y)
    S = torch.zeros(C, D)
    for phi, label in zip(x, y, strict=True):
        key = phi / (phi.square().sum() + 1e-6).sqrt()
        value = torch.eye(C)[label]
        new = naive.delta_rule(*(t.reshape(1, 1, 1, -1) for t in (key, key, value)), *gates(0.4, 0.9), S[None, None])[1]
        rows = torch.arange(C) == label if own_row else torch.ones(C, dtype=torch.bool)
        S = torch.where(rows.unsqueeze(1), new[0, 0], S)
    torch.testing.assert_close(memory.memory, S, rtol=1e-4, atol=1e-6)
    assert memory.stores_bytes() == 4 * C * D


def gates(eta, alpha):
    return torch.full((1, 1, 1), eta), torch.full((1, 1, 1), alpha).log()


PER_RECORD = {
    "nearest_mean": lambda: NearestMean(encode, D, C),
    "streaming_lda": lambda: Precision(encode, PrecisionMemory(D)),
    "ranpac": lambda: ranpac(encode, D, features=20),
    "klda": lambda: klda(encode, D, features=20, gamma=0.1),
    "recursive_ridge": lambda: PreconditionedHead(encode, D, C, partial(least_squares, ridge=2.0), squared_error),
    "nearest_neighbours": lambda: NearestNeighbours(encode, C, k=3),
    "hope_memory": lambda: HopeMemory(encode, D, C, eta=0.3),
    "hope_memory_own": lambda: HopeMemory(encode, D, C, eta=0.3, own_row=True),
    "joint": lambda: Joint(encode, C, LogisticRegression(C, strength=0.1)),
}


@pytest.mark.parametrize("name", PER_RECORD)
def test_these_learn_the_same_record_by_record_as_in_batches(name):
    x, y = records(60)
    test = records(80, seed=1, spread=2.0)[0]
    one, other = learned(PER_RECORD[name](), x, y, 1), learned(PER_RECORD[name](), x, y, 13)
    assert torch.equal(one.predict(test), other.predict(test))
