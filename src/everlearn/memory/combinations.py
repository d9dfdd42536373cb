"""Which choices of architecture, objective, retention and rule fit together, and why others do not."""

from __future__ import annotations

from everlearn.memory.architectures import Architecture, NonParametric
from everlearn.memory.objectives import Objective, l2
from everlearn.memory.retention import Decay, Keep, Retention
from everlearn.rules import Rule


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
    return None


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
