"""Familiarity scores against their literal formulas, thresholds and temperatures against scikit-learn and by hand."""

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score

from everlearn.continual.classifier import Classifier
from everlearn.continual.features import RawPixels
from everlearn.continual.unknown import (
    SCORES,
    auroc,
    best_threshold,
    calibration_error,
    fit_temperature,
)
from everlearn.memory.precision import PrecisionMemory, ridge

D = 5


def records(n=240, seed=0):
    """Four clear classes, of which the last is never learned."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2.5 * torch.randn(4, D, generator=torch.Generator().manual_seed(9))
    y = torch.arange(n) % 4
    return centres[y] + torch.randn(n, D, generator=generator), y


def learned(**options):
    phi, y = records()
    made = Classifier(RawPixels(D), PrecisionMemory(D, **options))
    made.learn(phi[y < 3], y[y < 3])
    return made


def split(seed):
    phi, y = records(seed=seed)
    return phi[y < 3], y[y < 3], phi[y == 3]


def distances(made, phi):
    """d_c to every class and d_0 to the background, with inverses written out."""
    statistics, s = made.memory.statistics, made.memory.shrinkage
    covariance = statistics.scatter() / statistics.total
    covariance = (1 - s) * covariance + s * covariance.diagonal().mean() * torch.eye(D, dtype=torch.float64)
    means = statistics.means
    background = covariance + torch.cov(means.mT, correction=0)

    def d(x, mean, matrix):
        return (x - mean) @ torch.linalg.inv(matrix) @ (x - mean)

    to_class = torch.stack([torch.stack([d(x, mean, covariance) for mean in means]) for x in phi])
    return to_class, torch.stack([d(x, means.mean(0), background) for x in phi])


@pytest.mark.parametrize("options", [{}, {"readout": ridge}])
def test_distances_are_those_of_the_gaussian_model(options):
    """Whatever reads the classes."""
    made = learned(**options)
    phi = split(1)[0][:20].double()
    snapshot = made.memory.snapshot()
    scores = snapshot.scores(phi)
    to_class, background = distances(made, phi)
    for name, expected in (
        ("distance", -to_class.amin(1)),
        ("relative", background - to_class.amin(1)),
    ):
        torch.testing.assert_close(SCORES[name](snapshot, phi, scores, 1.0), expected, atol=1e-9, rtol=1e-9)


def test_scores_of_the_answer_by_hand():
    """Scores 2, 1 and 0 at temperature 2."""
    scores = torch.tensor([[1.0, 2.0, 0.0]], dtype=torch.float64)
    snapshot, phi = learned().memory.snapshot(), torch.zeros(1, D)
    total = math.exp(1) + math.exp(0.5) + 1
    for name, expected in (("posterior", math.exp(1) / total), ("margin", 1.0), ("energy", 2 * math.log(total))):
        assert SCORES[name](snapshot, phi, scores, 2.0).tolist() == pytest.approx([expected])
    assert SCORES["margin"](snapshot, phi, scores[:, :1], 2.0).tolist() == [1.0]


def test_auroc_equals_scikit_learn_with_ties():
    generator = torch.Generator().manual_seed(0)
    known, unknown = (torch.randint(k, (50,), generator=generator).double() for k in (9, 7))
    labels = [1] * 50 + [0] * 50
    assert auroc(known, unknown) == pytest.approx(roc_auc_score(labels, torch.cat([known, unknown])))


def test_calibration_error_by_hand():
    """Two records at .9 of which one is right, and two at .3 of which one is: gaps .4 and .2, each half of all."""
    share = torch.tensor([0.9, 0.9, 0.3, 0.3])
    error = calibration_error(share, torch.tensor([True, False, True, False]))
    assert error == pytest.approx((2 * abs(0.5 - 0.9) + 2 * abs(0.5 - 0.3)) / 4)
    assert calibration_error(torch.ones(3), torch.ones(3, dtype=torch.bool)) == 0


def test_the_temperature_is_the_most_likely_one():
    """Two classes, a score gap of g and right in three of four: the share is 3/4 at T = g / log 3."""
    scores = torch.tensor([[0.0, 6.0]] * 4, dtype=torch.float64)
    assert fit_temperature(scores, torch.tensor([1, 1, 1, 0])) == pytest.approx(6 / math.log(3), rel=1e-6)


@pytest.mark.parametrize("scores", [[[3.0], [5.0]], [[4_000.0, 0.0], [9_000.0, 0.0]]])
def test_a_temperature_about_which_nothing_is_known_is_one(scores):
    """One class, and answers that are right beyond doubt: every temperature makes the labels as likely."""
    assert fit_temperature(torch.tensor(scores, dtype=torch.float64), torch.tensor([0, 0])) == 1.0


def test_the_threshold_is_the_best_of_all():
    generator = torch.Generator().manual_seed(1)
    known, unknown = torch.randn(40, generator=generator) + 1, torch.randn(30, generator=generator)

    def value(threshold):
        return (known >= threshold).double().mean() + (unknown < threshold).double().mean()

    every = torch.cat([known, unknown])
    found = best_threshold(known, unknown)
    assert value(found) == max(value(t) for t in [*every.tolist(), every.max() + 1])
    assert best_threshold(torch.ones(2), torch.ones(3)) == 1.0


def test_unknown_items_are_told_from_known_ones_and_the_choice_is_kept(tmp_path):
    made = learned()
    x, y, strange = split(2)
    calibration = made.calibrate(x, y, unknown=strange)
    aurocs = calibration.report["auroc"]
    assert set(aurocs) == set(SCORES) and aurocs[calibration.score] == max(aurocs.values()) > 0.9
    x, y, strange = split(3)
    answers = made.predict(torch.cat([x, strange]), unknown="unknown")
    refused = [label == "unknown" for label in answers]
    assert sum(refused[: len(x)]) < 0.2 * len(x) and sum(refused[len(x) :]) > 0.8 * len(strange)
    plain = made.predict(x)
    assert all(a in (b, "unknown") for a, b in zip(answers[: len(x)], plain, strict=True))
    made.save(tmp_path / "c")
    back = Classifier.load(tmp_path / "c")
    assert back.calibration == calibration and back.predict(torch.cat([x, strange]), unknown="unknown") == answers
    explained = back.explain(torch.cat([x, strange]))
    assert [one.unknown for one in explained] == refused
    assert all((one.familiarity < calibration.threshold) == one.unknown for one in explained)


def test_shares_are_those_of_the_temperature():
    made = learned()
    x, y, _ = split(2)
    sharp = made.predict(x[:3], top_k=2)
    calibration = made.calibrate(x, y)
    scores = made.memory.scores(x[:3])
    shares = (scores / calibration.temperature).softmax(1)
    for row, (pairs, before) in enumerate(zip(made.predict(x[:3], top_k=2), sharp, strict=True)):
        assert [label for label, _ in pairs] == [label for label, _ in before]
        assert pairs[0][1] == pytest.approx(shares[row].max().item())
        assert made.explain(x[row : row + 1])[0].classes[0].share == pytest.approx(pairs[0][1])
    report = calibration.report
    assert report["ece_after"] < report["ece_before"] or report["ece_before"] < 0.03


def test_without_unknown_items_the_threshold_keeps_a_share():
    made = learned()
    x, y, _ = split(2)
    for keep in (0.5, 0.9):
        calibration = made.calibrate(x, y, keep=keep, score="distance")
        assert calibration.score == "distance" and calibration.report["kept"] == pytest.approx(keep, abs=0.01)
        assert made.predict(x, unknown="?").count("?") == pytest.approx((1 - keep) * len(x), abs=2)


@pytest.mark.parametrize(("classes", "score"), [(9, "distance"), (10, "relative")])
def test_few_classes_are_told_from_others_by_distance(classes, score):
    made, x = Classifier(RawPixels(D)), torch.randn(40, D)
    made.learn(x, torch.arange(40) % classes)
    assert made.calibrate(x, torch.arange(40) % classes).score == score


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda c, x, y: c.calibrate(x, y, score="guess"), "score 'guess' is not one of posterior, margin"),
        (lambda c, x, y: c.calibrate(x, y, keep=1.0), "keep 1.0"),
        (lambda c, x, y: c.calibrate(x, y[1:]), "one label for each"),
        (lambda c, x, y: c.calibrate(x[:0], []), "no record to calibrate on"),
        (lambda c, x, y: c.calibrate(x, y, unknown=x[:0]), "no record to calibrate on"),
        (lambda c, x, y: c.calibrate(x[:1], ["new"]), "class 'new' was not learned"),
        (lambda c, x, y: c.calibrate(x * math.nan, y), "NaN"),
        (lambda c, x, y: c.predict(x, unknown="?"), "choose one first with calibrate"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(act, message):
    made = learned()
    x, y, _ = split(2)
    with pytest.raises(ValueError, match=message) as caught:
        act(made, x, y)
    assert made.calibration is None and "\n" not in str(caught.value)


def test_the_word_for_unknown_is_no_class():
    made = learned()
    x, y, _ = split(2)
    made.calibrate(x, y)
    with pytest.raises(ValueError, match="unknown=1 is a class"):
        made.predict(x, unknown=1)
    with pytest.raises(ValueError, match="do not go together"):
        made.predict(x, 2, unknown="?")
