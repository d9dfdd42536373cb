"""Is it any of the classes at all? Scores of familiarity, a threshold, and shares that can be believed.  [ours]"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from everlearn.memory.class_statistics import Label
from everlearn.memory.readout import Snapshot

BINS = 15  # of the calibration error
Familiarity = Callable[[Snapshot, Tensor, Tensor, float], Tensor]


def posterior(snapshot: Snapshot, phi: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """Return the share of the best class, [B]: the confidence in the answer."""
    return (scores / temperature).softmax(1).amax(1)


def margin(snapshot: Snapshot, phi: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """Return the best score minus the second, [B]; the best score where there is one class."""
    best = scores.topk(min(2, scores.shape[1]), dim=1).values
    return best[:, 0] - best[:, -1] if scores.shape[1] > 1 else best[:, 0]


def energy(snapshot: Snapshot, phi: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """Return T log sum_c exp(score_c / T), [B]: the negative free energy of the scores."""
    return temperature * (scores / temperature).logsumexp(1)


def distance(snapshot: Snapshot, phi: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """Return minus the squared Mahalanobis distance to the nearest class mean, [B].

        -min_c (phi - mu_c)^T Q (phi - mu_c)

    Q is that of `lda`. It takes a product with a [D, D] matrix for every record.
    """
    centred = phi - snapshot.statistics.means.mean(0)
    whitened = torch.linalg.solve_triangular(snapshot.spread, centred.mT, upper=False)
    return _to_classes(snapshot, phi)[0].amax(1) - (whitened**2).sum(0)


def relative(snapshot: Snapshot, phi: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """Return how much nearer a class is than the middle of all classes, [B].

        d_0(phi) - min_c d_c(phi),   d_c = (phi - mu_c)^T Q (phi - mu_c),   d_0 the same with mu_0 and (Q^-1 + B)^-1

    mu_0 is the mean of the class means and B their covariance: d_0 asks for a new class drawn as the known ones were.
    This is the relative Mahalanobis distance (Ren et al.) of a Gaussian model with one spread inside all classes. What
    is quadratic in phi cancels up to its C products with the means, so that reading stays cheap.
    """
    nearness, u = _to_classes(snapshot, phi)
    return nearness.amax(1) - ((u @ snapshot.between.inner) * u).sum(1)


def _to_classes(snapshot: Snapshot, phi: Tensor) -> tuple[Tensor, Tensor]:
    """Return z^T Q z - d_c, [B, C], and u = A Q z, [B, C], for z = phi - mu_0 and the centred class means A."""
    between = snapshot.between
    u = phi @ between.weights.mT + between.bias
    return 2 * u - between.gram.diagonal(), u


SCORES: dict[str, Familiarity] = {
    "posterior": posterior,
    "margin": margin,
    "energy": energy,
    "distance": distance,
    "relative": relative,
}
FEW = 10  # classes; with fewer of them, what lies between their means says little about what lies elsewhere


@dataclass(frozen=True)
class Calibration:
    """What validation data says about answers; it serves until it is made again, also when more is learned.

    Args:
        score: name of the familiarity in `SCORES`.
        threshold: below it an item is of no known class.
        temperature: the scores are divided by it before the softmax.
        report: what was measured on the data it was chosen on, so better than on new data: "records", "unknown",
            "ece_before", "ece_after", "auroc" of each score, "kept" and "refused" at the threshold.
    """

    score: str
    threshold: float
    temperature: float
    report: dict[str, Any] = field(default_factory=dict)

    def familiarity(self, snapshot: Snapshot, phi: Tensor, scores: Tensor) -> Tensor:
        """Return the chosen score, [B]; higher is more like what was learned."""
        return SCORES[self.score](snapshot, phi, scores, self.temperature)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


def calibrate(
    snapshot: Snapshot, phi: Tensor, labels: Sequence[Label], unknown: Tensor | None, score: str | None, keep: float
) -> Calibration:
    """Choose temperature, score and threshold on records that were not learned.

    The temperature is the one under which the labels are most likely. With records of no class, the score is that of
    the largest AUROC and the threshold that of the largest sum of known records kept and unknown ones refused. Without
    them the threshold keeps the share `keep` of the known ones.

    Args:
        snapshot: what answers.
        phi: features of known records, [B, D] float64.
        labels: their classes.
        unknown: features of records of no class, [U, D] float64, or None.
        score: a name in `SCORES`; None chooses it or, where there is nothing to choose on, takes "relative", and
            "distance" with fewer than ten classes.
        keep: in (0, 1).
    Raises:
        ValueError: no record, a class that was not learned, an unknown score, or keep outside its range.
    """
    if score is not None and score not in SCORES:
        raise ValueError(f"score {score!r} is not one of {', '.join(SCORES)}; choose one, or leave it out")
    if not 0 < keep < 1:
        raise ValueError(f"keep {keep} is no share of known records; give a number between 0 and 1, such as 0.95")
    if not len(labels) or (unknown is not None and not len(unknown)):
        raise ValueError(
            "there is no record to calibrate on; give some of known classes, and unknown=None or some more"
        )
    if strangers := sorted({str(label) for label in labels if label not in snapshot.labels}):
        raise ValueError(
            f"class {strangers[0]!r} was not learned, so nothing is calibrated on it; give such items as unknown=..."
        )
    index = torch.tensor([snapshot.labels.index(label) for label in labels])
    scores = snapshot.scores(phi)
    temperature = fit_temperature(scores, index)
    right = scores.argmax(1) == index
    report: dict[str, Any] = {"records": len(labels), "unknown": 0 if unknown is None else len(unknown)}
    for name, t in (("ece_before", 1.0), ("ece_after", temperature)):
        report[name] = calibration_error((scores / t).softmax(1).amax(1), right)
    if unknown is None:
        chosen = score or ("relative" if len(snapshot.labels) >= FEW else "distance")
        known = SCORES[chosen](snapshot, phi, scores, temperature)
        threshold = float(known.quantile(1 - keep))
        return Calibration(chosen, threshold, temperature, report | {"kept": _share(known >= threshold)})
    others = snapshot.scores(unknown)
    pairs = {
        name: (of(snapshot, phi, scores, temperature), of(snapshot, unknown, others, temperature))
        for name, of in SCORES.items()
    }
    report["auroc"] = {name: auroc(*pair) for name, pair in pairs.items()}
    chosen = score or max(SCORES, key=lambda name: report["auroc"][name])
    known, strange = pairs[chosen]
    threshold = best_threshold(known, strange)
    report |= {"kept": _share(known >= threshold), "refused": _share(strange < threshold)}
    return Calibration(chosen, threshold, temperature, report)


def fit_temperature(scores: Tensor, index: Tensor, steps: int = 60) -> float:
    """Return the temperature under which the labels are most likely, by golden section between e^-5 and e^9.

    Where none is better than 1, as with one class or where every answer is right beyond doubt, it is 1.

    Args:
        scores: [B, C].
        index: the right column of each row, [B].
        steps: of the search; 60 leave 1e-11 of the range.
    """

    def loss(log: float) -> float:
        return float(torch.nn.functional.cross_entropy(scores / math.exp(log), index))

    low, high, ratio = -5.0, 9.0, (math.sqrt(5) - 1) / 2
    for _ in range(steps):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if loss(left) <= loss(right) else (left, high)
    found = (low + high) / 2
    return math.exp(found) if loss(found) < loss(0.0) else 1.0


def calibration_error(share: Tensor, right: Tensor) -> float:
    """Return the expected calibration error: |accuracy - share| over 15 equal bins of the share, weighed by records."""
    bins = (share * BINS).long().clamp(0, BINS - 1)
    gaps = torch.zeros(BINS, dtype=torch.float64).index_add(0, bins, right.double() - share.double())
    return float(gaps.abs().sum() / len(share))


def auroc(known: Tensor, unknown: Tensor) -> float:
    """Return the probability that a known record scores above an unknown one, ties counting half."""
    ordered = unknown.sort().values
    below, not_above = (torch.searchsorted(ordered, known, right=right) for right in (False, True))
    return float((below + not_above).double().mean() / 2 / len(unknown))


def best_threshold(known: Tensor, unknown: Tensor) -> float:
    """Return the threshold that keeps most of the known and refuses most of the unknown, as shares of each."""
    values = torch.cat([known, unknown]).unique()
    if len(values) == 1:
        return float(values[0])
    between = (values[1:] + values[:-1]) / 2
    refused = torch.searchsorted(unknown.sort().values, between).double() / len(unknown)
    lost = torch.searchsorted(known.sort().values, between).double() / len(known)
    return float(between[(refused - lost).argmax()])


def _share(yes: Tensor) -> float:
    return float(yes.double().mean())
