"""How a memory of classes answers: the linear read-outs of its sums, and what one of them was solved from.  [ours]"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from everlearn.memory.class_statistics import ClassStatistics

Readout = Callable[[ClassStatistics, float], tuple[Tensor, Tensor]]


def lda(statistics: ClassStatistics, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Read by Gaussian classes that share one covariance: linear discriminant analysis.

        score_c = mu_c^T Q phi - 1/2 mu_c^T Q mu_c,   Q = ((1 - s) S/N + s tr(S)/(N D) I)^-1

    Q is N times the precision P of the surprise d = phi - mu_y. Classes of any size compete on equal terms, so it is
    safe on unbalanced data. With shrinkage s = 1, or one record per class, it is the nearest class mean.

    Returns:
        weights: [C, D].
        bias: [C].
    """
    means = statistics.means
    covariance = _shrink(statistics.scatter() / statistics.total, statistics, shrinkage)
    weights = torch.cholesky_solve(means.mT, torch.linalg.cholesky(covariance)).mT
    return weights, -(weights * means).sum(1) / 2


def ridge(statistics: ClassStatistics, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Read by ridge regression on one-hot labels, without intercept: what RanPAC does on random features.

        W = (sum_i onehot_i phi_i^T / N) ((1 - s) G/N + s tr(G)/(N D) I)^-1

    Large classes win ties; on unbalanced data prefer `lda`.

    Returns:
        weights: [C, D].
        bias: [C], zeros.
    """
    moment = _shrink(statistics.second_moment / statistics.total, statistics, shrinkage)
    targets = statistics.sums.mT / statistics.total
    weights = torch.cholesky_solve(targets, torch.linalg.cholesky(moment)).mT
    return weights, torch.zeros(len(weights), dtype=weights.dtype)


def _shrink(covariance: Tensor, statistics: ClassStatistics, shrinkage: float) -> Tensor:
    """Mix a covariance with the isotropic one of the same trace; one without any spread becomes the identity."""
    identity = torch.eye(len(covariance), dtype=covariance.dtype)
    size = covariance.diagonal().mean()
    if size <= 1e-12 * statistics.second_moment.diagonal().mean() / statistics.total:
        return identity
    return (1 - shrinkage) * covariance + shrinkage * size * identity


READOUTS: dict[str, Readout] = {"lda": lda, "ridge": ridge}
