"""Which choices of architecture, objective, retention and rule fit together, and why others do not."""

from __future__ import annotations

from functools import partial

from everlearn.memory.architectures import Architecture, Matrix, NonParametric, ResidualMLP, Vector
from everlearn.memory.objectives import Objective, dot, l2
from everlearn.memory.retention import Anchor, Decay, Keep, Retention, TrustRegion
from everlearn.rules import (
    Rule,
    adam,
    deep_momentum,
    delta_momentum_printed,
    dgd,
    least_squares,
    m3,
    momentum,
    newton_schulz,
    oja,
    omega,
    owm,
    preconditioned,
)

KEYED: set[Rule] = {dgd, least_squares, oja, omega, owm}
"""Rules that multiply with the input of the weight matrix."""

SHORTENS_ITSELF: set[Rule] = {dgd}
"""Rules that divide their step by 1 + eta |u|^2 themselves, so that the memory must not do it again."""

FREE_OF_SCALE: set[Rule] = {adam, deep_momentum, m3, newton_schulz, preconditioned}
"""Rules whose step does not grow with the gradient."""


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
    Example:
        >>> refusal(Matrix(4), dot, Keep(), oja) is None
        True
        >>> refusal(Matrix(4), l2, Keep(), oja)
        'oja finds the value in the gradient of dot alone; give objective=dot, or gd'
    """
    if reason := _of_another_kind(architecture, objective, retention, rule, window):
        return reason
    if isinstance(architecture, NonParametric):
        return _of_kernel(objective, retention, rule, window)
    if rule is None:
        return "only a non-parametric memory is fitted without a rule; give one, such as gd"
    rule = bare(rule)
    if rule is delta_momentum_printed:
        return "delta_momentum_printed overflows on gradients of ordinary size; give delta_momentum"
    if rule in KEYED and isinstance(architecture, Vector):
        return "a vector has no matrix whose input could be the key of this rule; give gd, or a Matrix"
    if rule in (least_squares, oja, omega):
        return _of_linear(architecture, objective, retention, rule, window)
    if isinstance(architecture, ResidualMLP) and objective is dot and not isinstance(retention, TrustRegion):
        return _of_two_layers(architecture, retention, rule)
    return None


def _of_another_kind(
    architecture: object, objective: object, retention: object, rule: object, window: int
) -> str | None:
    """Say which argument is no choice at all: a word, or a class where one of its objects is needed."""
    fits = {
        "architecture": (architecture, isinstance(architecture, Architecture | NonParametric), "such as Matrix(8)"),
        "objective": (objective, callable(objective), "such as l2 or Huber(1.0)"),
        "retention": (retention, isinstance(retention, Retention), "such as Keep() or Decay(0.99)"),
        "rule": (rule, rule is None or callable(rule), "such as everlearn.rules.gd"),
    }
    for name, (given, fit, example) in fits.items():
        if not fit or isinstance(given, type):
            what = f"the class {given.__name__}" if isinstance(given, type) else repr(given)
            return f"{name} is {what}, which cannot be used as one; give the thing itself, {example}"
    if not isinstance(window, int):
        return f"window {window!r} is no whole number of tokens; give one >= 1"
    if window < 1:
        return f"window {window} is below 1, so nothing would be written; give 1 for the newest token"
    return None


def bare(rule: Rule) -> Rule:
    """Return the rule itself where `functools.partial` configures it."""
    while isinstance(rule, partial):
        rule = rule.func
    return rule


def _of_two_layers(architecture: ResidualMLP, retention: Retention, rule: Rule) -> str | None:
    """Say where two layers grow together, since the dot product never says that a pair is held well enough."""
    if not architecture.implicit and rule not in FREE_OF_SCALE | SHORTENS_ITSELF:
        return (
            "with dot the two layers of an MLP feed each other and grow exponentially; "
            "give implicit=True, TrustRegion(radius), or l2"
        )
    if rule is momentum and isinstance(retention, Keep):
        return (
            "old gradients are not bounded by the implicit step, and with dot an MLP grew to answers of 1e12; "
            "give Decay, Anchor, TrustRegion, or gd"
        )
    return None


def _of_kernel(objective: Objective, retention: Retention, rule: Rule | None, window: int) -> str | None:
    """Say what a memory that is solved exactly cannot take."""
    if rule is not None:
        return "a non-parametric memory is solved exactly and takes no steps; give rule=None"
    if objective is not l2:
        return "a non-parametric memory has an exact solution for l2 alone; give objective=l2, or another architecture"
    if not isinstance(retention, Keep | Decay):
        return "a non-parametric memory has no weights to hold back; give Keep() or Decay(alpha)"
    if window != 1:
        return "a non-parametric memory fits all pairs that it keeps; set NonParametric(window=...) instead"
    return None


def _of_linear(
    architecture: Architecture, objective: Objective, retention: Retention, rule: Rule, window: int
) -> str | None:
    """Say what the rules that recover the value of a linear memory cannot take."""
    name = {oja: "oja", omega: "omega", least_squares: "least_squares"}[rule]
    if not isinstance(architecture, Matrix):
        return f"{name} is derived for a linear memory; give a Matrix, or gd"
    if rule is oja and objective is not dot:
        return "oja finds the value in the gradient of dot alone; give objective=dot, or gd"
    if rule is not oja and objective is not l2:
        return f"{name} holds for l2 alone; give objective=l2, or gd"
    if window != 1:
        return f"{name} takes one key at a time and keeps what it needs of the past; give window=1"
    if rule is omega and isinstance(retention, Decay | Anchor):
        return "omega finds the value with the weights that it steps from, which this changes; give gd and window=c"
    if rule is least_squares and not isinstance(retention, Keep):
        return "least_squares counts on weights that hold all it saw; give Keep(), or gd with this retention"
    if rule is least_squares and architecture.implicit:
        return "least_squares takes the whole step, which implicit would shorten; give Matrix(implicit=False)"
    return None
