"""Surfaces to descend: a winding valley whose curvature changes along the way, and one with many minima."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from everlearn.rules import Rule, Slots

Surface = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Valley:
    """A valley that winds around a straight line, with its minimum, 0, at the origin.  [NL eq. 53]

        psi(r, theta) = r^2 + k (r - theta + alpha sin(omega r))^2

    Its walls are about k times as steep as its floor, and where they stand changes with r. At alpha omega > 1 the
    valley turns back on itself, and at omega 20, alpha 1 it has local minima. The paper gives no numbers for k, alpha
    and omega. In three dimensions, which are ours, the floor is a helix: + k (r - z + alpha (cos(omega r) - 1))^2.

    Args:
        k: steepness of the walls, > 0; a number, or [C, 1, 1] for C valleys at once.
        alpha: how far the valley winds, like `k`.
        omega: how often, in radians per unit of r, like `k`.
        turn: angle by which the plane of r and theta is rotated [radians], like `k`; nothing is aligned with the
            coordinates any more.
    """

    k: float | Tensor
    alpha: float | Tensor
    omega: float | Tensor
    turn: float | Tensor = 0.0

    def __call__(self, points: Tensor) -> Tensor:
        """Return the height at each point, [..., 2] or [..., 3] -> [...]."""
        turn = torch.as_tensor(self.turn, dtype=points.dtype)
        first, second = points[..., 0], points[..., 1]
        r = turn.cos() * first + turn.sin() * second
        theta = turn.cos() * second - turn.sin() * first
        height = r.square() + self.k * (r - theta + self.alpha * torch.sin(self.omega * r)).square()
        if points.shape[-1] == 3:
            aside = r - points[..., 2] + self.alpha * (torch.cos(self.omega * r) - 1)
            height = height + self.k * aside.square()
        return height


def rastrigin(points: Tensor) -> Tensor:
    """Return |x|^2 + sum 10 (1 - cos(2 pi x)): a minimum near every point of whole numbers, 0 at the origin.

    The basin of the origin is |x| < 0.5 in every coordinate, to a very good approximation.
    """
    return (points.square() + 10 * (1 - torch.cos(2 * math.pi * points))).sum(-1)


@dataclass(frozen=True)
class Descent:
    """How descents went.

    Args:
        first: the first step after which the height was below the bound; inf where it never was, [..., S].
        last: where they ended, [..., S, n]; not finite where one diverged.
    """

    first: Tensor
    last: Tensor

    @property
    def solved(self) -> Tensor:
        """Return the share of starts that came below the bound, [...]."""
        return self.first.isfinite().double().mean(-1)

    @property
    def median(self) -> Tensor:
        """Return the median number of steps, [...]; inf where fewer than half of the starts were solved."""
        return self.first.sort(-1).values[..., (self.first.shape[-1] - 1) // 2]


def descend(
    surface: Surface,
    rule: Rule,
    starts: Tensor,
    eta: Tensor,
    steps: int,
    *,
    below: float = 1e-3,
    schedule: Callable[[float], float] = lambda done: 1.0,
) -> Descent:
    """Descend a surface from several starts, with several step sizes at once.

    Args:
        surface: heights of points, [..., n] -> [...].
        rule: how a step changes a point, which is one row of weights to it.
        starts: [S, n].
        eta: step sizes, [...]; each gets all starts. Of several surfaces at once the first dimension is the surface.
        steps: how many.
        below: a height that counts as solved.
        schedule: factor on the step size by the share of the steps that are done.
    """
    eta = eta[..., None, None, None]  # [..., 1, 1, 1]: one for all starts
    points = starts.unsqueeze(-2).expand(*eta.shape[:-3], *starts.unsqueeze(-2).shape).clone()  # [..., S, 1, n]
    first = torch.full(points.shape[:-2], math.inf, dtype=points.dtype)
    slots: Slots = {}
    for step in range(steps):
        asked = points.detach().requires_grad_()
        (grad,) = torch.autograd.grad(surface(asked.squeeze(-2)).sum(), asked)
        with torch.no_grad():
            points, slots = rule(points, grad, None, slots, eta=eta * schedule(step / steps))
            first = torch.where((surface(points.squeeze(-2)) < below) & first.isinf(), step + 1, first)
    return Descent(first, points.squeeze(-2))
