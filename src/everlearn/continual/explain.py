"""Why a classifier answers what it does: the parts of a score, and the records that carried it.  [ours]"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from everlearn.memory.class_statistics import Label
from everlearn.memory.readout import Snapshot, lda, ridge


@dataclass(frozen=True)
class ClassPart:
    """What one class has to say about an item.

    Args:
        label: the class.
        share: its share of the softmax over all classes, at the calibrated temperature where there is one.
        score: evidence + bias; the highest answers.
        evidence: how much the item looks like the class, w_c^T phi.
        bias: what the class asks for before it answers, -1/2 mu_c^T Q mu_c under `lda`.
        records: how many records it has learned, or their weight under a half-life.
    """

    label: Label
    share: float
    score: float
    evidence: float
    bias: float
    records: float


@dataclass(frozen=True)
class Explanation:
    """Why one item got its answer.

    Args:
        classes: best first.
        margin: score of the best minus that of the second; None where there is one class.
        records: (id, part of the best class's score) for the records that carried most of it; empty without a ledger.
            The parts of all its records sum to the score.
        familiarity: the calibrated score of being any known class, None without a calibration; see `unknown`.
        unknown: familiarity is below the calibrated threshold; None without one.
    """

    classes: tuple[ClassPart, ...]
    margin: float | None
    records: tuple[tuple[str, float], ...] = ()
    familiarity: float | None = None
    unknown: bool | None = None


def class_parts(snapshot: Snapshot, phi: Tensor, top: int, temperature: float = 1.0) -> list[tuple[ClassPart, ...]]:
    """Return the parts of the `top` best classes for each record.

    Args:
        snapshot: what answers.
        phi: features, [B, D] float64.
        top: how many classes, >= 1.
        temperature: of the shares.
    """
    scores = snapshot.scores(phi)
    shares = (scores / temperature).softmax(1)
    evidence, places = scores - snapshot.bias, scores.argsort(dim=1, descending=True, stable=True)[:, :top]
    labels, counts, bias = snapshot.labels, snapshot.statistics.counts.tolist(), snapshot.bias.tolist()
    found = []
    for row, columns in enumerate(places.tolist()):
        numbers = [(shares[row, c].item(), scores[row, c].item(), evidence[row, c].item()) for c in columns]
        found.append(
            tuple(ClassPart(labels[c], *three, bias[c], counts[c]) for c, three in zip(columns, numbers, strict=True))
        )
    return found


def margins(scores: Tensor) -> list[float | None]:
    """Return the best score of each row minus the second; None where there is one class."""
    if scores.shape[1] < 2:
        return [None] * len(scores)
    best = scores.topk(2, dim=1).values
    return (best[:, 0] - best[:, 1]).tolist()


def record_parts(snapshot: Snapshot, phi: Tensor, label: Label, features: Tensor) -> Tensor:
    """Split the score of a class among its records; the parts sum to the score.  [ours]

        lda:    part_i = phi_i^T Q (phi - mu_c / 2) / n_c
        ridge:  part_i = phi_i^T M^-1 phi / N

    A record's part is what its place in the class sum gave; what it did to Q, which all records share, is not in it.

    Args:
        snapshot: what answers, read by `lda` or `ridge`.
        phi: features of one item, [D] float64.
        label: the class.
        features: those of all records of the class, [n, D] float64.
    Returns:
        [n].
    Raises:
        ValueError: another readout.
    """
    statistics = snapshot.statistics
    row = statistics.labels.index(label)
    if snapshot.readout is lda:
        direction, factor, count = phi - statistics.means[row] / 2, snapshot.spread, statistics.counts[row]
    elif snapshot.readout is ridge:
        direction, factor, count = phi, snapshot.moment, statistics.counts.sum()
    else:
        raise ValueError(
            "explaining by record knows the readouts lda and ridge, not one of your own; explain by class, without a "
            "ledger"
        )
    return features @ torch.cholesky_solve(direction.unsqueeze(1), factor).squeeze(1) / count
