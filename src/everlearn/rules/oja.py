"""Oja's rule: a Hebbian write that keeps the memory's size in check."""

from __future__ import annotations

from torch import Tensor

from everlearn.rules.keys import error_of, one_key
from everlearn.rules.shapes import as_matrix
from everlearn.rules.types import Slots


def oja(
    weights: Tensor, grad: Tensor, key: Tensor | None, slots: Slots, *, eta: float | Tensor
) -> tuple[Tensor, Slots]:
    """Write the value under what the memory does not yet derive of the key.  [NL eq. 66]

        M_t = M_{t-1} + eta v_t (k_t - M_{t-1}^T v_t)^T

    It is gradient descent on |k - M^T v|^2 / 2, the reconstruction of the key from the value, where the delta rule
    reconstructs the value from the key. The value is found from the gradient of the dot-product objective,
    -v k^T, so other objectives are not for this rule. Stable while eta |v|^2 < 2.

    Args:
        weights: M, [..., out, in]; a vector [n] is one row.
        grad: -v k^T, same shape.
        key: k, one for each matrix, [..., in] or [..., 1, in]; where it is zero nothing is written.
        slots: oja keeps nothing and returns it as it came.
        eta: step size in units of 1 / |v|^2, >= 0, a number or [..., 1, 1].
    Returns:
        weights: the changed memory; the argument is left untouched.
        slots: as given.
    Raises:
        ValueError: no key, more than one in a step, or keys that do not fit the weights.
    Example:
        >>> import torch
        >>> oja(torch.zeros(1, 2), torch.tensor([[-6.0, -8.0]]), torch.tensor([3.0, 4.0]), {}, eta=0.1)[0]
        tensor([[0.6000, 0.8000]])
    """
    k = one_key("oja", key, weights)
    M = as_matrix(weights)
    v = -error_of(as_matrix(grad), k)
    return (M + eta * v.mT @ (k - v @ M)).reshape(weights.shape), slots
