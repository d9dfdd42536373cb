"""Strategies of sums, of everything kept and of one matrix, against scikit-learn and the literal equation."""

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression as SklearnLogistic
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from strategy_records import SGD, C, D, encode, learned, records

from everlearn.continual.features import RandomReLU
from everlearn.continual.strategies.base import linear_head, loss_over_seen, squared_error
from everlearn.continual.strategies.fine_tune import FineTune
from everlearn.continual.strategies.hope_memory import HopeMemory
from everlearn.continual.strategies.joint import Joint, LogisticRegression
from everlearn.continual.strategies.klda import RandomFourier, klda
from everlearn.continual.strategies.nearest_mean import NearestMean
from everlearn.continual.strategies.nearest_neighbours import NearestNeighbours
from everlearn.continual.strategies.owm_head import PreconditionedHead
from everlearn.continual.strategies.per_domain import OneModelPerDomain
from everlearn.continual.strategies.precision import Precision
from everlearn.continual.strategies.ranpac import ranpac
from everlearn.continual.strategies.records import Records, Trainer
from everlearn.continual.strategies.retrain import RetrainEachTask, RetrainEvery
from everlearn.memory.precision import PrecisionMemory
from everlearn.ops.delta_rule import naive
from everlearn.rules import gd, least_squares, momentum, owm

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
