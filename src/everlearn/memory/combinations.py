"""Which choices of architecture, objective, retention and rule fit together, and why others do not."""

from __future__ import annotations

from functools import partial

from everlearn.memory.architectures import Architecture, Matrix, NonParametric, Vector
from everlearn.memory.objectives import Objective, l2
from everlearn.memory.retention import Decay, Keep, Retention
from everlearn.rules import Rule, least_squares

KEYED: set[Rule] = {least_squares}
"""Rules that multiply with the input of the weight matrix."""

SHORTENS_ITSELF: set[Rule] = set()
"""Rules that divide their step by 1 + eta |u|^2 themselves, so that the memory must not do it again."""


def refusal(
    architecture: Architecture | NonParametric,
    objective: Objective,
    retention: Retention,
    rule: Rule | None,
    window: int = 1,
) -> str | None:
    """Say why a combination cannot work; None where it can.

    Args:
        architecture: see `everlearn.memory.architectures`.
        objective: see `everlearn.memory.objectives`.
        retention: see `everlearn.memory.retention`.
        rule: see `everlearn.rules`, also configured by `functools.partial`; None for an exact fit.
        window: tokens whose objective is summed.
    Returns:
        One sentence: the reason and what to do.
    """
    if isinstance(architecture, NonParametric):
        return _of_kernel(objective, retention, rule, window)
    if rule is None:
        return "only a non-parametric memory is fitted without a rule; give one, such as gd"
    base = bare(rule)
    if base in KEYED and isinstance(architecture, Vector):
        return "a vector has no matrix whose input could be the key of this rule; give gd or a Matrix"
    if base is least_squares:
        return _of_least_squares(architecture, objective, retention, window)
    return None


def bare(rule: Rule) -> Rule:
    """Return the rule itself where `functools.partial` configures it."""
    while isinstance(rule, partial):
        rule = rule.func
    return rule


def _of_kernel(objective: Objective, retention: Retention, rule: Rule | None, window: int) -> str | None:
    """Say what a memory that is solved exactly cannot take."""
    if rule is not None:
        return "a non-parametric memory is solved exactly and takes no steps; give rule=None"
    if objective is not l2:
        return "a non-parametric memory has an exact solution for l2 alone; give objective=l2 or another architecture"
    if not isinstance(retention, Keep | Decay):
        return "a non-parametric memory has no weights to hold back; give Keep() or Decay(alpha)"
    if window != 1:
        return "a non-parametric memory fits all pairs that it keeps; set NonParametric(window=...) instead"
    return None


def _of_least_squares(
    architecture: Architecture, objective: Objective, retention: Retention, window: int
) -> str | None:
    """Say where least squares would not be exact."""
    if not isinstance(architecture, Matrix) or objective is not l2:
        return "least_squares is exact for a Matrix with l2 alone; give those, or gd"
    if not isinstance(retention, Keep):
        return "least_squares counts on weights that keep all it saw; give Keep(), or gd with this retention"
    if window != 1:
        return "least_squares remembers all keys itself and would count those of the window again; give window=1"
    if architecture.implicit:
        return "least_squares takes the whole step, which implicit would shorten; give Matrix(implicit=False)"
    return None
