"""Small worlds in which the answer is known: capacity, saturation and overlap of memories.

`python benchmarks/results.py` runs them; their tables stand in RESULTS.md. Step sizes are chosen on draws of their own,
with the same grid for every method.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from everlearn.evals.capacity import Pairs, draw_pairs, recall_curve, watch
from everlearn.evals.overlap import learn_in_turn, tasks_at_angle
from everlearn.memory import AssociativeMemory, Matrix, NonParametric, ResidualMLP
from everlearn.memory.feature_maps import Polynomial
from everlearn.memory.objectives import Huber, Lp, Objective, dot, l2
from everlearn.memory.retention import Decay, Keep, Retention, TrustRegion
from everlearn.rules import (
    Rule,
    adam,
    delta_momentum,
    dgd,
    gd,
    least_squares,
    m3,
    momentum,
    newton_schulz,
    owm,
)

Row = dict[str, Any]
DIM = 32
DRAWS = 20
COUNTS = (8, 16, 32, 64, 128)
ETAS = (0.1, 0.2, 0.4, 0.7, 1.0)
TUNING_SEED, TEST_SEED = 100, 0
ALIKE = 0.5

OBJECTIVES: dict[str, Objective] = {
    "dot": dot,
    "L2": l2,
    "Lp, p = 1.5": Lp(1.5),
    "Lp, p = 3": Lp(3.0),
    "Huber, delta = 0.1": Huber(0.1),
}
RETENTIONS: dict[str, Retention] = {
    "keep": Keep(),
    "decay .99": Decay(0.99),
    "trust region .2": TrustRegion(0.2),
}
Build = Callable[[float], AssociativeMemory]


def memories() -> dict[str, Build]:
    """Return what is compared: every objective with every retention, then other architectures and the exact fits."""
    rows: dict[str, Build] = {
        f"matrix | {objective} | {retention}": partial(_matrix, OBJECTIVES[objective], RETENTIONS[retention])
        for objective in OBJECTIVES
        for retention in RETENTIONS
    }
    rows["matrix of all products of two | L2 | keep"] = lambda eta: AssociativeMemory(
        Matrix(DIM, feature_map=Polynomial(2), implicit=True), eta=eta
    )
    rows["residual MLP, 64 hidden | L2 | keep"] = lambda eta: AssociativeMemory(ResidualMLP(DIM, 64), eta=eta)
    rows["matrix, exact least squares | L2 | keep"] = lambda eta: AssociativeMemory(
        Matrix(DIM), rule=partial(least_squares, ridge=1e-3), eta=1.0
    )
    rows["softmax attention, scale 8 | L2 | keep"] = lambda eta: AssociativeMemory(
        NonParametric(DIM, scale=8.0), rule=None
    )
    return rows


def _matrix(objective: Objective, retention: Retention, eta: float) -> AssociativeMemory:
    """Return a linear memory written by gradient descent."""
    return AssociativeMemory(Matrix(DIM), objective, retention, eta=eta)


def capacity() -> Row:
    """Recall against the number of pairs, for independent keys and for keys that resemble each other."""
    torch.manual_seed(0)
    names = {"independent": 0.0, "alike": ALIKE}
    tuning = {name: draw_pairs(DRAWS, COUNTS[-1], DIM, common=c, seed=TUNING_SEED) for name, c in names.items()}
    test = {name: draw_pairs(DRAWS, COUNTS[-1], DIM, common=c, seed=TEST_SEED) for name, c in names.items()}
    rows: Row = {}
    for row, build in memories().items():
        rows[row] = {}
        for name, pairs in test.items():
            eta = max(ETAS, key=lambda e: _area(build(e), tuning[name]))
            curve = recall_curve(build(eta), pairs, COUNTS)
            rows[row][name] = {
                "eta": eta,
                "mean": [float(curve[n].mean()) for n in COUNTS],
                "sd": [float(curve[n].std()) for n in COUNTS],
            }
    return {"counts": COUNTS, "dim": DIM, "draws": DRAWS, "rows": rows}


def _area(memory: AssociativeMemory, pairs: Pairs) -> float:
    """Return the mean of a recall curve: what the step size is chosen by."""
    return statistics.mean(float(share.mean()) for share in recall_curve(memory, pairs, COUNTS).values())


def saturation() -> Row:
    """Write far more pairs than fit, and one pair again and again, and look at what an alarm could see."""
    counts = (16, 32, 64, 128, 512, 2048)
    fresh = draw_pairs(DRAWS, counts[-1], DIM, seed=TEST_SEED)
    first = draw_pairs(DRAWS, 32, DIM, seed=TEST_SEED)
    again = Pairs(*(torch.cat([x, x[:, -1:].expand(-1, counts[-1] - 32, -1)], 1) for x in (first.keys, first.values)))
    cases = {
        "dot, keep": (_matrix(dot, Keep(), 1.0), fresh),
        "L2, keep": (_matrix(l2, Keep(), 1.0), fresh),
        "L2, decay .99": (_matrix(l2, Decay(0.99), 1.0), fresh),
        "exact least squares": (
            AssociativeMemory(Matrix(DIM), rule=partial(least_squares, ridge=1e-3), eta=1.0),
            fresh,
        ),
        "dot, keep, one pair repeated after 32": (_matrix(dot, Keep(), 1.0), again),
        "L2, keep, one pair repeated after 32": (_matrix(l2, Keep(), 1.0), again),
    }
    rows = {name: [asdict(h) for h in watch(memory, pairs, counts)] for name, (memory, pairs) in cases.items()}
    return {"dim": DIM, "draws": DRAWS, "rows": rows}


ANGLES = (90.0, 75.0, 60.0, 45.0)
GRID = tuple(10.0 ** (k / 2) for k in range(-6, 4))  # .001 to 31.6
RULES: dict[str, Rule] = {
    "gradient descent": gd,
    "momentum .5": partial(momentum, beta=0.5),
    "momentum .9": partial(momentum, beta=0.9),
    "momentum .99": partial(momentum, beta=0.99),
    "delta momentum, gated, .9": partial(delta_momentum, beta=0.9),
    "delta momentum, gated, .99": partial(delta_momentum, beta=0.99),
    "Adam": adam,
    "Muon": newton_schulz,
    "M3": m3,
    "DGD": dgd,
    "OWM": owm,
    "exact least squares": partial(least_squares, ridge=1e-6),
}
EXACT = "exact least squares"  # its step size is 1


def overlap(steps: int = 100) -> Row:
    """Train one linear map on eight overlapping tasks in turn, by angle and rule."""
    rows: Row = {}
    for name, rule in RULES.items():
        rows[name] = {}
        for angle in ANGLES:
            tuning = tasks_at_angle(angle, DRAWS, seed=TUNING_SEED)
            grid = (1.0,) if name == EXACT else GRID
            tried = {eta: sum(float(x.mean()) for x in learn_in_turn(rule, tuning, eta, steps)) for eta in grid}
            # a step size that diverges gives infinity or no number at all
            eta = min(grid, key=lambda e: tried[e] if tried[e] == tried[e] else float("inf"))
            newest, old = learn_in_turn(rule, tasks_at_angle(angle, DRAWS, seed=TEST_SEED), eta, steps)
            rows[name][str(angle)] = {
                "eta": eta,
                "newest": float(newest.mean()),
                "newest_sd": float(newest.std()),
                "old": float(old.mean()),
                "old_sd": float(old.std()),
            }
    return {"angles": ANGLES, "draws": DRAWS, "steps": steps, "grid": GRID, "rows": rows}
