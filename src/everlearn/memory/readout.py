"""How a memory of classes answers: the linear read-outs of its sums, and what one of them was solved from.  [ours]"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from everlearn.memory.class_statistics import ClassStatistics, Label

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
    weights = torch.cholesky_solve(means.mT, spread_factor(statistics, shrinkage)).mT
    return weights, -(weights * means).sum(1) / 2


def ridge(statistics: ClassStatistics, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Read by ridge regression on one-hot labels, without intercept: what RanPAC does on random features.

        W = (sum_i onehot_i phi_i^T / N) ((1 - s) G/N + s tr(G)/(N D) I)^-1

    Large classes win ties; on unbalanced data prefer `lda`.

    Returns:
        weights: [C, D].
        bias: [C], zeros.
    """
    targets = statistics.sums.mT / statistics.total
    weights = torch.cholesky_solve(targets, moment_factor(statistics, shrinkage)).mT
    return weights, torch.zeros(len(weights), dtype=weights.dtype)


def spread_factor(statistics: ClassStatistics, shrinkage: float) -> Tensor:
    """Return the Cholesky factor of what `lda` takes the inverse of, (1 - s) S/N + s tr(S)/(N D) I, [D, D]."""
    return torch.linalg.cholesky(_shrink(statistics.scatter() / statistics.total, statistics, shrinkage))


def moment_factor(statistics: ClassStatistics, shrinkage: float) -> Tensor:
    """Return the Cholesky factor of what `ridge` takes the inverse of, (1 - s) G/N + s tr(G)/(N D) I, [D, D]."""
    return torch.linalg.cholesky(_shrink(statistics.second_moment / statistics.total, statistics, shrinkage))


def _shrink(covariance: Tensor, statistics: ClassStatistics, shrinkage: float) -> Tensor:
    """Mix a covariance with the isotropic one of the same trace; one without any spread becomes the identity."""
    identity = torch.eye(len(covariance), dtype=covariance.dtype)
    size = covariance.diagonal().mean()
    if size <= 1e-12 * statistics.second_moment.diagonal().mean() / statistics.total:
        return identity
    return (1 - shrinkage) * covariance + shrinkage * size * identity


READOUTS: dict[str, Readout] = {"lda": lda, "ridge": ridge}


@dataclass(frozen=True, eq=False)
class Between:
    """How the class means lie around their own mean mu_0, under the precision Q of `lda`; A are the centred means.

    Args:
        weights: A Q, [C, D].
        bias: -A Q mu_0, [C].
        gram: A Q A^T, [C, C].
        inner: (C I + A Q A^T)^-1, [C, C].
    """

    weights: Tensor
    bias: Tensor
    gram: Tensor
    inner: Tensor


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What was known at one moment, solved for reading: a value that later writes leave untouched.

    Args:
        statistics: what was known.
        readout: what solved them.
        shrinkage: its prior.
        version: how many changes the memory had seen.
        weights: [C, D] float64.
        bias: [C] float64.
    """

    statistics: ClassStatistics
    readout: Readout
    shrinkage: float
    version: int
    weights: Tensor
    bias: Tensor

    @classmethod
    def of(cls, statistics: ClassStatistics, readout: Readout, shrinkage: float, version: int = 0) -> Snapshot:
        """Solve statistics of at least one class."""
        return cls(statistics, readout, shrinkage, version, *readout(statistics, shrinkage))

    @property
    def labels(self) -> tuple[Label, ...]:
        """Return the classes, in the order of the columns of `scores`."""
        return self.statistics.labels

    def scores(self, phi: Tensor) -> Tensor:
        """Return how well each record fits each class, [B, D] float64 -> [B, C] float64."""
        return phi @ self.weights.mT + self.bias

    def best(self, scores: Tensor) -> list[Label]:
        """Return the label of the highest score in each row."""
        return [self.labels[i] for i in scores.argmax(1).tolist()]

    @functools.cached_property
    def spread(self) -> Tensor:
        """Return `spread_factor`, solved when it is first asked for."""
        return spread_factor(self.statistics, self.shrinkage)

    @functools.cached_property
    def moment(self) -> Tensor:
        """Return `moment_factor`, solved when it is first asked for."""
        return moment_factor(self.statistics, self.shrinkage)

    @functools.cached_property
    def between(self) -> Between:
        """Return how the class means lie around their mean, solved when it is first asked for."""
        means = self.statistics.means
        centre = means.mean(0)
        weights = torch.cholesky_solve((means - centre).mT, self.spread).mT
        gram = weights @ (means - centre).mT
        inner = torch.linalg.inv(gram + len(means) * torch.eye(len(means), dtype=gram.dtype))
        return Between(weights, -weights @ centre, gram, inner)
