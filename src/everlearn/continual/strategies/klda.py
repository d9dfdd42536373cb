"""Linear discriminant analysis on random Fourier features: an approximate kernel, kept as sums."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from everlearn.continual.strategies.base import Encode
from everlearn.continual.strategies.precision import Precision
from everlearn.memory.precision import PrecisionMemory


class RandomFourier:
    """Map vectors so that inner products approximate a Gaussian kernel (Rahimi & Recht, 2007).

        psi = sqrt(2) cos(Omega x + b),   <psi(x), psi(z)> / M -> exp(-gamma |x - z|^2)

    Omega has entries of variance 2 gamma, b is uniform on a circle; both are drawn once by numpy's RandomState. Each
    feature has unit size.

    Args:
        dim_in: length of an input vector.
        dim: M, number of features.
        gamma: of the kernel, > 0; for features of unit size a value near 1 / dim_in.
        seed: of the draw.
    Raises:
        ValueError: a size below one, or gamma that is not above zero.
    """

    def __init__(self, dim_in: int, dim: int, *, gamma: float, seed: int = 0) -> None:
        if min(dim_in, dim) < 1 or gamma <= 0:
            raise ValueError(
                f"RandomFourier({dim_in}, {dim}, gamma={gamma}) has a value that is not above zero; "
                "give sizes >= 1 and a gamma such as 1 / dim_in"
            )
        self.dim_in, self.dim, self.gamma, self.seed = dim_in, dim, gamma, seed
        draw = np.random.RandomState(seed)
        self._matrix = torch.from_numpy(draw.standard_normal((dim_in, dim))) * math.sqrt(2 * gamma)
        self._phase = torch.from_numpy(draw.uniform(0, 2 * math.pi, dim))

    def __call__(self, items: Tensor) -> Tensor:
        """Map [B, dim_in] to [B, dim] float32."""
        return (math.sqrt(2) * (items.double() @ self._matrix + self._phase).cos()).float()


def klda(
    encode: Encode, dim: int, *, features: int = 2000, gamma: float, shrinkage: float = 0.01, seed: int = 0
) -> Precision:
    """Return streaming LDA on random Fourier features (KLDA, Momeni et al., 2025).

    Kept are the M x M moment and one sum for each class, no record; no boundary is needed.

    Args:
        encode: raw records -> features [B, dim].
        dim: their length.
        features: M.
        gamma: of the kernel.
        shrinkage: see `PrecisionMemory`.
        seed: of the draw.
    """
    project = RandomFourier(dim, features, gamma=gamma, seed=seed)
    return Precision(lambda x: project(encode(x)), PrecisionMemory(features, shrinkage=shrinkage))
