"""Orthogonalised momentum (Muon): a memory of gradients with a non-linear output."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from everlearn.rules.shapes import as_matrix, unit
from everlearn.rules.types import Slots

QUINTIC = (3.4445, -4.7750, 2.0315)  # steepest at zero: five steps bring singular values of any size near 1


def orthogonalize(
    matrix: Tensor,
    ns_steps: int = 5,
    *,
    coefficients: tuple[float, float, float] = QUINTIC,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Bring all singular values of a matrix near 1, keeping its singular vectors.  [NL eq. 42-44]

        X_0 = X / |X|,   X <- a X + b (X X^T) X + c (X X^T)^2 X

    With (1 + zeta, -zeta, 0) a step is gradient descent on |X X^T - I|^2 / 4; the default is the quintic of Muon. It
    does not converge to exactly 1: at least 97 % of the singular values of a random matrix lie in [.65, 1.25], all
    of them below 1.25, and the smallest ones of a square matrix stay small.

    Args:
        matrix: [..., out, in], of any size from 1e-30 to 1e30; zero gives zero.
        ns_steps: Newton-Schulz steps, >= 0.
        coefficients: a, b and c.
        dtype: in which it is computed; None takes float32, or float64 where that is what came in. torch.bfloat16 takes
            less than half of the time where the processor multiplies in it, and is right to about a hundredth.
    Returns:
        like `matrix`, [..., out, in].
    """
    a, b, c = coefficients
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix if matrix.dtype == torch.float64 else matrix.float()
    x = unit(x.mT if tall else x, (-2, -1))
    x = x if dtype is None else x.to(dtype)
    for _ in range(ns_steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrix.dtype)


def newton_schulz(
    weights: Tensor,
    grad: Tensor,
    key: Tensor | None,
    slots: Slots,
    *,
    eta: float | Tensor,
    beta: float = 0.95,
    ns_steps: int = 5,
    nesterov: bool = True,
    ns_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Slots]:
    """Step along the orthogonalised momentum, as Muon does.  [NL eq. 42-44, 52]

        m_t = beta m_{t-1} + (1 - beta) g_t
        W_t = W_{t-1} - eta 0.2 sqrt(max(out, in)) NS((1 - beta) g_t + beta m_t)

    It is a momentum memory whose output passes through a non-linear function, Newton-Schulz. There is no bias
    correction: the orthogonalisation divides out any common size, of the gradients as well. For matrices in the
    hidden layers; embeddings, heads and vectors take `adam`. The same numbers as torch.optim.Muon with
    adjust_lr_fn="match_rms_adamw", which rounds to bfloat16 where this does not.

    Args:
        weights: what is changed, [..., out, in]; a vector [n] is one row.
        grad: its gradient, same shape.
        key: unused; every rule takes it.
        slots: {} before the first step, then {"m": [..., out, in]}.
        eta: step size, >= 0: root mean square of the change is about 0.2 eta in every matrix, as with `adam`.
        beta: share of the old momentum that is kept, in [0, 1).
        ns_steps: Newton-Schulz steps, >= 1.
        nesterov: False orthogonalises m itself.
        ns_dtype: type of the Newton-Schulz steps, such as torch.bfloat16; None as `orthogonalize` says.
    Returns:
        weights: the changed weights; the argument is left untouched.
        slots: the new momentum.
    Example:
        >>> W, _ = newton_schulz(torch.zeros(1, 4), torch.tensor([[0.0, 9.0, 0.0, 0.0]]), None, {}, eta=1.0)
        >>> round(W[0, 1].item(), 1)
        -0.3
    """
    u, m = lookahead(slots, as_matrix(grad), beta, nesterov=nesterov)
    step = common_size(m) * orthogonalize(u, ns_steps, dtype=ns_dtype)
    return weights - eta * step.reshape(weights.shape), {"m": m}


def lookahead(slots: Slots, grad: Tensor, beta: float, *, nesterov: bool = True) -> tuple[Tensor, Tensor]:
    """Return the direction that is orthogonalised, and the momentum after this gradient."""
    m = (slots["m"] if slots else torch.zeros_like(grad)).lerp(grad, 1 - beta)
    return (grad.lerp(m, beta) if nesterov else m), m


def common_size(matrix: Tensor) -> float:
    """Return the factor that gives an orthogonal matrix of any shape the size of an Adam step, 0.2 sqrt(max)."""
    return 0.2 * math.sqrt(max(matrix.shape[-2:]))
