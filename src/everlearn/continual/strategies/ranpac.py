"""Ridge regression on random ReLU features."""

from __future__ import annotations

from everlearn.continual.features import RandomReLU
from everlearn.continual.strategies.base import Encode
from everlearn.continual.strategies.precision import Precision
from everlearn.memory.precision import PrecisionMemory, Readout, ridge


def ranpac(
    encode: Encode,
    dim: int,
    *,
    features: int = 2000,
    shrinkage: float = 0.01,
    gain: float = 2.0,
    readout: Readout = ridge,
    seed: int = 0,
) -> Precision:
    """Return ridge regression of one-hot labels on random ReLU features, kept as sums (RanPAC, McDonnell et al., 2023).

        psi = max(0, A phi + b);   W = (sum onehot psi^T) (G + lambda I)^-1,   lambda = s / (1 - s) tr(G) / M

    It equals recursive least squares with that lambda. Kept are the M x M moment and one sum for each class, no record;
    no boundary is needed. On unbalanced classes `lda` as the readout is safer.

    Args:
        encode: raw records -> features [B, dim].
        dim: their length.
        features: M.
        shrinkage: s, see `PrecisionMemory`.
        gain: size of the random features.
        readout: `ridge` as published, or `lda`.
        seed: of the projection.
    """
    project = RandomReLU(dim, features, gain=gain, seed=seed)
    return Precision(lambda x: project(encode(x)), PrecisionMemory(features, shrinkage=shrinkage, readout=readout))
