"""Objectives: what a memory's answer for a key costs, its attentional bias.  [NL eq. 6]

Each is a function (prediction [B, T, Dv], value [B, T, Dv]) -> loss per token [B, T], smooth enough that first and
second derivatives are finite everywhere, also where the prediction is exactly right.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Objective(Protocol):
    """Compare what the memory answered with what it should hold."""

    def __call__(self, prediction: Tensor, value: Tensor) -> Tensor:
        """Return the loss of every token, [B, T]."""
        ...


def dot(prediction: Tensor, value: Tensor) -> Tensor:
    """Reward likeness: -<y, v>; one gradient step on it is the Hebbian rule of linear attention.  [NL eq. 64]"""
    return -(prediction * value).sum(-1)


def l2(prediction: Tensor, value: Tensor) -> Tensor:
    """Punish the difference: |y - v|^2 / 2; one gradient step on it is the delta rule.  [NL eq. 65]"""
    return (prediction - value).square().sum(-1) / 2


class Lp:
    """Punish each coordinate's difference by its p-th power, rounded off at zero.

        sum_i ((d_i^2 + s^2)^(p/2) - s^p) / p,    d = y - v

    p below 2 is robust against outliers among the values, p above 2 hunts the largest error; p = 2 is `l2`, whatever
    s is. The rounding keeps the curvature finite where d = 0, which |d|^p with p < 2 does not have.

    Args:
        p: exponent, >= 1.
        smooth: s, in units of a value, > 0.
    Raises:
        ValueError: p below 1, or smooth not above zero.
    """

    def __init__(self, p: float, smooth: float = 1e-2) -> None:
        if not p >= 1:
            raise ValueError(f"p {p} is below 1, where the loss is not convex; give a number >= 1, such as 1.5")
        if not smooth > 0:
            raise ValueError(f"smooth {smooth} is not above zero, so curvature at zero is infinite; try 0.01")
        self.p, self.smooth = p, smooth

    def __call__(self, prediction: Tensor, value: Tensor) -> Tensor:
        """Return the loss of every token, [B, T]."""
        power = ((prediction - value).square() + self.smooth**2) ** (self.p / 2)
        return (power - self.smooth**self.p).sum(-1) / self.p

    def __repr__(self) -> str:
        return f"Lp({self.p})"


class Huber:
    """Punish each coordinate's difference by its square up to delta and by its size beyond.

        sum_i c_i (d_i - c_i / 2),    c = d clipped to [-delta, delta],  d = y - v

    An outlier among the values moves the memory by at most delta per coordinate.

    Args:
        delta: where the square ends, in units of a value, > 0; math.inf is `l2`.
    Raises:
        ValueError: delta is not above zero.
    """

    def __init__(self, delta: float = 1.0) -> None:
        if not delta > 0:
            raise ValueError(f"delta {delta} is not above zero, so nothing would be learned; give one, such as 1.0")
        self.delta = delta

    def __call__(self, prediction: Tensor, value: Tensor) -> Tensor:
        """Return the loss of every token, [B, T]."""
        difference = prediction - value
        clipped = difference.clamp(-self.delta, self.delta)
        return (clipped * (difference - clipped / 2)).sum(-1)

    def __repr__(self) -> str:
        return f"Huber({self.delta})"


def kl(prediction: Tensor, value: Tensor) -> Tensor:
    """Punish how far a predicted distribution lies from the given one: KL(v || softmax(y)).

    Args:
        prediction: logits, [B, T, Dv].
        value: probabilities, [B, T, Dv], >= 0, summing to 1; zeros are welcome.
    Returns:
        [B, T], in nats.
    """
    # the bound touches only exact zeros, whose own derivative would be infinite
    entropy = torch.xlogy(value, value.clamp_min(torch.finfo(value.dtype).tiny))
    return (entropy - value * prediction.log_softmax(-1)).sum(-1)
