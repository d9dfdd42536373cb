"""The precision memory against batch LDA, ridge regression, and never having seen a record."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge

from everlearn.memory.class_statistics import ClassStatistics
from everlearn.memory.precision import PrecisionMemory, lda, ridge
from everlearn.rules.least_squares import add_records, start_precision

D = 12


def records(n=200, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, D, generator=generator)
    y = torch.arange(n) % classes
    mix = torch.randn(D, D, generator=generator)
    return centres[y] + torch.randn(n, D, generator=generator) @ mix * 0.3, y


def learned(phi, y, size=10, **options):
    memory = PrecisionMemory(D, **options)
    for a, b in zip(phi.split(size), y.split(size), strict=True):
        memory.write(a, b)
    return memory


def same_bits(one, other):
    (a, a_meta), (b, b_meta) = one.to_tensors(), other.to_tensors()
    return a_meta == b_meta and all(torch.equal(a[name], b[name]) for name in a)


def test_two_classes_in_one_dimension_by_hand():
    # means 1 and 5, scatter 2 + 2 over 4 records: variance 1; the scores differ by 4 (x - 3)
    memory = PrecisionMemory(1)
    memory.write(torch.tensor([[0.0], [2.0], [4.0], [6.0]]), ["low", "low", "high", "high"])
    assert memory.labels == ("high", "low") and memory.counts == {"high": 2, "low": 2}
    scores = memory.scores(torch.tensor([[3.0], [3.5]]))
    torch.testing.assert_close(scores[:, 0] - scores[:, 1], torch.tensor([0.0, 2.0], dtype=torch.float64))


def test_lda_readout_equals_scikit_learn():
    phi, y = records()
    shrinkage = 0.1
    oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, priors=np.full(5, 0.2))
    # scikit-learn standardises before it shrinks, so equality needs features of one variance
    scaled = phi / phi_std(phi, y)
    oracle.fit(scaled, y)
    got = learned(scaled, y, shrinkage=shrinkage, resolution=2.0**-30).scores(scaled)
    expected = torch.from_numpy(oracle.decision_function(scaled))
    gap = (got - got[:, :1]) - (expected - expected[:, :1])
    assert gap.abs().max() < 1e-5 * expected.abs().max()


def phi_std(phi, y):
    return torch.stack([phi[y == c].var(0, correction=0) for c in y.unique()]).mean(0).sqrt()


def test_ridge_readout_equals_scikit_learn():
    phi, y = records()
    phi = phi.double()
    memory = learned(phi, y, readout=ridge, shrinkage=0.2, resolution=2.0**-30)
    gram = phi.mT @ phi
    alpha = 0.2 / 0.8 * gram.diagonal().mean().item()
    targets = torch.nn.functional.one_hot(y).double()
    oracle = Ridge(alpha=alpha, fit_intercept=False).fit(phi, targets)
    expected = torch.from_numpy(oracle.predict(phi)) / 0.8
    torch.testing.assert_close(memory.scores(phi), expected, atol=1e-6, rtol=1e-6)


def test_shrinkage_one_is_the_nearest_class_mean():
    phi, y = records(seed=1)
    means = torch.stack([phi[y == c].mean(0) for c in range(5)])
    nearest = torch.cdist(phi, means).argmin(1)
    assert learned(phi, y, shrinkage=1.0).predict(phi) == nearest.tolist()


def test_one_record_per_class_is_the_nearest_record():
    phi, _ = records(5, seed=2)
    probe, _ = records(50, seed=3)
    memory = learned(phi, torch.arange(5))
    assert memory.predict(probe) == torch.cdist(probe, phi).argmin(1).tolist()


def test_memory_equals_the_rule_record_by_record():
    # the nested form: a delta rule on means, and least squares on its surprise
    phi, y = records(seed=4)
    phi = (phi.double() * 2**16).round() / 2**16
    prior = 0.7
    means, counts = torch.zeros(5, D, dtype=torch.float64), [0] * 5
    precision = start_precision(D, prior)
    for x, c in zip(phi, y.tolist(), strict=True):
        d, n = x - means[c], counts[c]
        means[c] += d / (n + 1)
        counts[c] += 1
        precision = add_records(precision, d, n / (n + 1))
    statistics = learned(phi, y).statistics
    expected = torch.linalg.inv(statistics.scatter() + prior * torch.eye(D, dtype=torch.float64))
    torch.testing.assert_close(means, statistics.means, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(precision, expected, atol=1e-12, rtol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 60))
def test_any_order_and_any_batches_leave_the_same_bits(seed, size):
    phi, y = records(seed=5)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    one, other = learned(phi, y, size=1), learned(phi[order], y[order], size=size)
    assert one.exact and same_bits(one, other)
    assert torch.equal(one.scores(phi), other.scores(phi))


@settings(max_examples=20, deadline=None)
@given(st.sets(st.integers(0, 59), min_size=1, max_size=59))
def test_removed_is_never_seen(gone):
    phi, y = records(60, seed=6)
    gone = torch.tensor(sorted(gone))
    keep = torch.ones(60, dtype=torch.bool)
    keep[gone] = False
    memory = learned(phi, y)
    memory.remove(phi[gone], y[gone])
    assert same_bits(memory, learned(phi[keep], y[keep]))


def test_merge_equals_one_memory_that_saw_everything():
    phi, y = records(seed=7)
    one, other = learned(phi[:77], y[:77]), learned(phi[77:], y[77:] + 3)
    one.merge(other)
    assert same_bits(one, learned(phi, torch.cat([y[:77], y[77:] + 3])))


def test_beyond_its_bound_the_memory_says_so_and_stays_accurate():
    phi, y = records(seed=8)
    big = phi * 4096
    memory = learned(big, y)
    assert not memory.exact
    backwards = learned(big.flip(0), y.flip(0))
    gap = (memory.scores(big) - backwards.scores(big)).abs().max() / memory.scores(big).abs().max()
    assert gap < 1e-10


def test_new_classes_and_label_kinds_at_any_time():
    memory = PrecisionMemory(2)
    memory.write(torch.eye(2), ["b", 10])
    memory.write(torch.tensor([[-1.0, 0.0], [0.0, -1.0]]), [np.int64(2), np.str_("a")])
    assert memory.labels == (2, 10, "a", "b")
    assert memory.predict(torch.tensor([[-2.0, 0.1], [3.0, 0.0]])) == [2, "b"]
    assert all(type(label) in (int, str) for label in memory.labels)


def test_empty_batches_change_nothing():
    memory = learned(*records())
    kept = memory.to_tensors()[0]
    memory.write(torch.zeros(0, D), [])
    memory.remove(torch.zeros(0, D), [])
    assert all(torch.equal(memory.to_tensors()[0][name], kept[name]) for name in kept)


def test_forgetting_everything_leaves_an_empty_memory():
    phi, y = records()
    memory = learned(phi, y)
    memory.remove(phi.flip(0), y.flip(0))
    assert same_bits(memory, PrecisionMemory(D))


def test_a_state_comes_back_bit_for_bit():
    phi, y = records()
    memory = learned(phi, y, readout=ridge, shrinkage=0.5)
    back = PrecisionMemory.from_tensors(*memory.to_tensors())
    assert same_bits(back, memory) and back.readout is ridge
    assert torch.equal(back.scores(phi), memory.scores(phi))
    back.write(phi[:3], y[:3])
    memory.write(phi[:3], y[:3])
    assert same_bits(back, memory)


def test_readout_and_shrinkage_may_change_after_a_read():
    phi, y = records()
    memory = learned(phi, y)
    memory.scores(phi)
    memory.readout, memory.shrinkage = ridge, 0.4
    assert torch.equal(memory.scores(phi), learned(phi, y, readout=ridge, shrinkage=0.4).scores(phi))


def test_a_write_after_a_read_is_seen():
    phi, y = records()
    memory = learned(phi[:100], y[:100])
    before = memory.scores(phi)
    memory.write(phi[100:], y[100:])
    assert torch.equal(memory.scores(phi), learned(phi, y).scores(phi)) and not torch.equal(memory.scores(phi), before)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda m: m.write(torch.zeros(1, D + 1), [0]), "shape"),
        (lambda m: m.write(torch.full((1, D), math.nan), [0]), "NaN"),
        (lambda m: m.write(torch.zeros(2, D), [0]), "one label for each"),
        (lambda m: m.write(torch.zeros(1, D), [1.5]), "text or an integer"),
        (lambda m: m.write(torch.zeros(1, D), [True]), "text or an integer"),
        (lambda m: m.write(torch.zeros(3, D), "cat"), "one text"),
        (lambda m: m.remove(torch.zeros(1, D), ["cat"]), "0 were learned"),
        (lambda m: m.remove(torch.full((1, D), 50.0), [0]), "no records' statistics"),
        (lambda m: m.remove(*records(5, classes=1, seed=9)), "4 were learned"),
        (lambda m: m.remove(*records(4, classes=1, seed=9)), "no records' statistics"),
        (lambda m: m.merge(PrecisionMemory(3)), "does not merge"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(act, message):
    memory = learned(*records(20))
    kept = PrecisionMemory.from_tensors(*memory.to_tensors())
    with pytest.raises(ValueError, match=message):
        act(memory)
    assert same_bits(memory, kept)


def test_an_empty_memory_does_not_answer():
    with pytest.raises(ValueError, match="write records first"):
        PrecisionMemory(2).scores(torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("sums", lambda t: t * math.inf, "NaN or infinite"),
        ("sums", lambda t: t[1:], "no tensor 'sums'"),
        ("sums", lambda t: t.float(), "float64"),
        ("counts", lambda t: t * 0, "contradict"),
    ],
)
def test_a_damaged_state_is_refused(name, change, message):
    tensors, meta = learned(*records()).to_tensors()
    with pytest.raises(ValueError, match=message):
        PrecisionMemory.from_tensors(tensors | {name: change(tensors[name])}, meta)


@pytest.mark.parametrize("options", [{"dim": 0}, {"shrinkage": 0.0}, {"shrinkage": 2.0}, {"resolution": 0.1}])
def test_arguments_outside_their_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        PrecisionMemory(**({"dim": 3} | options))


def test_statistics_are_values():
    phi, y = records(20)
    memory = learned(phi, y)
    before = memory.statistics
    sums = before.sums.clone()
    memory.write(phi, y)
    assert torch.equal(before.sums, sums) and isinstance(before, ClassStatistics)
    assert torch.equal(lda(before, 0.1)[0], lda(learned(phi, y).statistics, 0.1)[0])


def test_features_too_small_for_the_grid_are_told():
    """All of them would be zero; one that is not, or a record that is zero itself, says nothing."""
    phi, y = torch.full((2, D), 1e-6), ["a", "b"]
    with pytest.warns(UserWarning, match=r"at most 1.0e-06 are all rounded to 0 on a grid of 1.5e-05.*resolution"):
        PrecisionMemory(D).write(phi, y)
    PrecisionMemory(D, resolution=2.0**-40).write(phi, y)
    PrecisionMemory(D).write(torch.zeros(2, D), y)
    PrecisionMemory(D).write(torch.cat([phi[:1], 1e-3 + phi[1:]]), y)
