"""Descents on surfaces whose curvature changes, and the overlapping tasks by the length of the momentum."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from everlearn.evals.overlap import gradients_that_carry, learn_in_turn, momentum_weights, tasks_at_angle
from everlearn.evals.surfaces import Surface, Valley, descend, rastrigin
from everlearn.rules import Rule, Slots, adam, delta_momentum, gd, momentum, newton_schulz
from everlearn.rules.delta_momentum import delta_momentum_matrix

Row = dict[str, Any]
RATES = tuple(10 ** (-3.5 + k / 8) for k in range(33))  # 3e-4 to 3
STEPS = 2000
RADIUS = 3.0
TUNING, STARTS = 32, 64  # other starts for the choice of the rate than for the table
CELLS = tuple(itertools.product((5, 20), (0.5, 1.0), (5, 20)))  # k, alpha, omega
SHAPES = ("flat", "rotated", "3-D")


def restarting(
    weights: Tensor, grad: Tensor, key: Tensor | None, slots: Slots, *, eta: Tensor, beta: float = 0.99
) -> tuple[Tensor, Slots]:
    """Take a momentum step, and forget all of the momentum where the gradient points against it.

    The control of the gated delta momentum: the gradient restart of O'Donoghue and Candes (2015).
    """
    if slots:
        against = (slots["m"] * grad).sum((-2, -1), keepdim=True) < 0
        slots = {"m": torch.where(against, 0.0, slots["m"]), "mass": slots["mass"]}
    return momentum(weights, grad, key, slots, eta=eta, beta=beta)


RULES: dict[str, Rule] = {
    "EMA .9": partial(momentum, beta=0.9),
    "EMA .99": partial(momentum, beta=0.99),
    "Adam": adam,
    "delta, matrix .99": partial(delta_momentum_matrix, beta=0.99, gamma=0.3),
    "delta, gated .99": partial(delta_momentum, beta=0.99, gamma=0.9),
    "restart .99": restarting,
}


def around(count: int, dim: int, *, shift: float) -> Tensor:
    """Return starts at the radius: evenly around the plane, and above it by turns in three dimensions, [count, dim]."""
    angle = 2 * math.pi * (torch.arange(count, dtype=torch.float64) + shift) / count
    flat = torch.stack([angle.cos(), angle.sin()], -1)
    if dim == 2:
        return RADIUS * flat
    height = torch.linspace(-0.8, 0.8, count, dtype=torch.float64).roll(count // 3)[:, None]
    return RADIUS * torch.cat([flat * (1 - height.square()).sqrt(), height], -1)


def valleys() -> Row:
    """Descend every valley by every rule; the step size is chosen on other starts than those that are counted."""
    rates = torch.tensor(RATES, dtype=torch.float64)
    rows: Row = {name: {} for name in RULES}
    for shape in SHAPES:
        dim = 3 if shape == "3-D" else 2
        k, alpha, omega = (torch.tensor(column, dtype=torch.float64) for column in zip(*CELLS, strict=True))
        turn = math.pi / 4 if shape == "rotated" else 0.0
        tuned = Valley(k[:, None, None], alpha[:, None, None], omega[:, None, None], turn)
        asked = Valley(k[:, None], alpha[:, None], omega[:, None], turn)
        for name, rule in RULES.items():
            trial = descend(tuned, rule, around(TUNING, dim, shift=0.5), rates.expand(len(CELLS), -1), STEPS)
            # most starts solved, then fewest steps over all of them
            spent = trial.first.clamp_max(2 * STEPS).mean(-1)
            best = rates[spent.argmin(-1)]
            found = descend(asked, rule, around(STARTS, dim, shift=0.0), best, STEPS)
            for i, cell in enumerate(CELLS):
                rows[name][f"{shape} {cell}"] = {
                    "rate": float(best[i]),
                    "median": float(found.median[i]) if found.median[i].isfinite() else None,
                    "solved": float(found.solved[i]),
                    "diverged": float((~found.last[i].isfinite().all(-1)).double().mean()),
                    "search": trial.solved[i].tolist(),
                }
    return {
        "cells": [list(cell) for cell in CELLS],
        "rules": rows,
        "steps": STEPS,
        "rates": len(RATES),
        "starts": [TUNING, STARTS],
    }


def many_minima() -> Row:
    """Descend Rastrigin's function with a rate that falls to zero, and count who ends at the origin."""
    dice = torch.Generator().manual_seed(0)
    starts = (torch.rand(512 + 128, 2, generator=dice, dtype=torch.float64) - 0.5) * 10.24
    rates = torch.tensor(RATES, dtype=torch.float64)
    rules = {"gradient descent": gd, **RULES, "Muon (a row: unit length)": newton_schulz}
    rows: Row = {}
    for name, rule in rules.items():
        trial = _in_basin(rastrigin, rule, starts[512:], rates)
        best = int(trial.argmax())
        found = _in_basin(rastrigin, rule, starts[:512], rates[best][None])
        rows[name] = {"rate": float(rates[best]), "share": float(found[0]), "search": trial.tolist()}
    return {"rules": rows, "starts": 512, "steps": STEPS, "rates": len(RATES)}


def _in_basin(surface: Surface, rule: Rule, starts: Tensor, rates: Tensor) -> Tensor:
    """Return the share of starts that end in the basin of the origin, by rate."""
    end = descend(surface, rule, starts, rates, STEPS, schedule=lambda done: 1 - done).last
    return (end.abs() < 0.5).all(-1).double().mean(-1)


BETAS = (0.5, 0.9, 0.99, 0.999)
ANGLES = (90.0, 60.0)
LENGTHS = (12, 100)  # steps per task
DRAWS = 20
GRID = tuple(10.0 ** (k / 4) for k in range(-12, 5))  # .001 to 10


def momentum_of_tasks() -> Row:
    """Ask what momenta of several lengths hold of earlier tasks, and what they forget; eq. 45's argument in numbers."""
    rows: Row = {}
    for beta in BETAS:
        rule = partial(momentum, beta=beta)
        carried = {str(share): gradients_that_carry(share, beta) for share in (0.5, 0.99)}
        past = {str(n): float(momentum_weights(beta, 8 * n)[n:].sum()) for n in LENGTHS}
        cells: Row = {}
        for angle, steps in itertools.product(ANGLES, LENGTHS):
            tuning, asked = (tasks_at_angle(angle, DRAWS, seed=seed) for seed in (100, 0))
            tried = [sum(float(x.mean()) for x in learn_in_turn(rule, tuning, eta, steps)) for eta in GRID]
            eta = GRID[min(range(len(GRID)), key=lambda i: tried[i] if tried[i] == tried[i] else math.inf)]
            newest, old = learn_in_turn(rule, asked, eta, steps)
            cells[f"{angle:g} {steps}"] = {"newest": float(newest.mean()), "old": float(old.mean()), "eta": eta}
        rows[str(beta)] = {"carried": carried, "past": past, "cells": cells}
    return {"betas": rows, "draws": DRAWS, "grid": len(GRID)}
