"""Delta gradient descent: a step that first lets go of what the layer says about its input."""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.rules.keys import key_block
from everlearn.rules.shapes import as_matrix, wide
from everlearn.rules.types import Slots


def dgd(
    weights: Tensor,
    grad: Tensor,
    key: Tensor | None,
    slots: Slots,
    *,
    eta: float | Tensor,
    rho: float | Tensor = 1.0,
    implicit: bool = True,
) -> tuple[Tensor, Slots]:
    """Take the delta gradient step, exactly for any number of keys.  [NL eq. 56-57, 113-121]

        W_t = argmin_W  <W, g> + rho/2 sum_x |W x|^2 + 1/(2 eta) |W - W_{t-1}|^2,   g = sum_x e_x x^T
            = (W_{t-1} - eta g)(I + eta rho X^T X)^-1

    With rho 1 the first two terms are |W x + e|^2 / 2 up to a constant: the layer regresses onto its own surprise.
    For one key this is W (I - eta' x x^T) - eta' g with eta' = eta / (1 + eta |x|^2); the printed eta / (1 + eta)
    needs |x| = 1. It equals `gd` with eta' on the loss plus (rho / 2) |W x|^2, so it is a decay along
    the inputs. With the dot product for an objective it is the delta rule and recalls v; with the L2 objective the
    old value is subtracted twice and it recalls v / 2: take `gd` there. As the rule of a whole network, rho 1 kept
    every layer near zero output; small rho, or a decay beside another rule, is what was measured to work.

    Args:
        weights: [..., out, in]; a vector [n] is one row.
        grad: sum over the keys of error times key, same shape; a loss that is a mean over T asks for rho = 1 / T.
        key: the layer's inputs, [..., T, in], or one, [..., in].
        slots: dgd keeps nothing and returns it as it came.
        eta: step size, >= 0, a number or [..., 1, 1]; any size is stable, since the step is implicit in the decay.
        rho: weight of the decay, >= 0, a number or [..., 1, 1]; 0 is `gd`.
        implicit: True for the exact minimiser above; False for W (I - eta rho X^T X) - eta g, which is `gd` on the loss
            plus the penalty for any number of keys, overshoots once eta rho X^T X has an eigenvalue above 1, and is
            the decay of `everlearn.optim.DGD`.
    Returns:
        weights: the changed weights; the argument is left untouched. Half precision is solved in float32.
        slots: as given.
    Raises:
        ValueError: no key, or keys that do not fit the weights.
    Example:
        >>> W, k, v = torch.zeros(1, 2), torch.tensor([0.6, 0.8]), 5.0
        >>> for _ in range(50):
        ...     W, _ = dgd(W, -v * k[None], k, {}, eta=1.0)
        >>> round((W @ k).item(), 3)
        5.0
    """
    keys = wide(key_block("dgd", key, weights))
    if not implicit:
        decay = decay_along(wide(as_matrix(weights)), keys.mT @ keys, eta * rho).reshape(weights.shape)
        return (weights - decay - eta * grad).to(weights.dtype), slots
    moved = wide(as_matrix(weights - eta * grad))
    decay = torch.as_tensor(eta * rho, dtype=moved.dtype, device=moved.device)
    size, dim = keys.shape[-2:]
    if size <= dim:
        # Woodbury: one system of size T instead of one of size in; for one key it is Sherman-Morrison
        inner = torch.eye(size, dtype=moved.dtype, device=moved.device) + decay * keys @ keys.mT
        moved = moved - decay * torch.linalg.solve(inner, (moved @ keys.mT).mT).mT @ keys
    else:
        inner = torch.eye(dim, dtype=moved.dtype, device=moved.device) + decay * keys.mT @ keys
        moved = torch.linalg.solve(inner, moved.mT).mT
    return moved.reshape(weights.shape).to(weights.dtype), slots


def decay_along(weights: Tensor, moment: Tensor, share: float | Tensor) -> Tensor:
    """Return what the delta gradient step lets go of: share W S.  [NL eq. 57, 113-121]

    Args:
        weights: W, [..., out, in].
        moment: S, the sum or mean of x x^T over the inputs, [..., in, in].
        share: step size times rho, a number or [..., 1, 1].
    """
    return share * (weights @ moment)
