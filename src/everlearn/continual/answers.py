"""What a classifier answers, from one snapshot of what it knows."""

from __future__ import annotations

from torch import Tensor

from everlearn.continual.unknown import Calibration
from everlearn.memory.class_statistics import Label
from everlearn.memory.readout import Snapshot


def answer(
    snapshot: Snapshot, phi: Tensor, calibration: Calibration | None, top_k: int | None, unknown: Label | None
) -> list[Label] | list[list[tuple[Label, float]]]:
    """Answer from a snapshot; see `Classifier.predict`.

    Args:
        snapshot: what answers.
        phi: features, [B, D] float64.
        calibration: gives the temperature of the shares and the threshold, or None.
        top_k: how many labels with their shares, or None for the best alone.
        unknown: what to answer below the threshold, or None.
    """
    scores = snapshot.scores(phi)
    if unknown is not None:
        if calibration is None:
            raise ValueError(f"unknown={unknown!r} needs a threshold; choose one first with calibrate(items, labels)")
        if unknown in snapshot.labels or top_k is not None:
            got = "is a class" if unknown in snapshot.labels else f"and top_k={top_k} do not go together"
            raise ValueError(f"unknown={unknown!r} {got}; give another word without top_k, or use explain")
        known = calibration.familiarity(snapshot, phi, scores) >= calibration.threshold
        return [label if yes else unknown for label, yes in zip(snapshot.best(scores), known.tolist(), strict=True)]
    if top_k is None:
        return snapshot.best(scores)
    if top_k < 1:
        raise ValueError(f"top_k {top_k} asks for no label; give a number >= 1, or leave it out for the best one")
    shares = (scores / calibration.temperature if calibration else scores).softmax(1)
    # by score: shares that are next to nothing are all equal
    index = scores.argsort(dim=1, descending=True, stable=True)[:, :top_k]
    return [
        [(snapshot.labels[i], share) for i, share in zip(row, values, strict=True)]
        for row, values in zip(index.tolist(), shares.gather(1, index).tolist(), strict=True)
    ]
