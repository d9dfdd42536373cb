"""How one step changes weights: pure functions, one file per rule."""

from everlearn.rules.adam import adam
from everlearn.rules.clip import clip_rows
from everlearn.rules.deep_momentum import deep_momentum
from everlearn.rules.delta_momentum import delta_momentum, delta_momentum_matrix, delta_momentum_printed
from everlearn.rules.dgd import dgd
from everlearn.rules.gd import gd
from everlearn.rules.least_squares import least_squares
from everlearn.rules.m3 import m3
from everlearn.rules.momentum import momentum
from everlearn.rules.newton_schulz import newton_schulz, orthogonalize
from everlearn.rules.oja import oja
from everlearn.rules.omega import omega
from everlearn.rules.owm import owm
from everlearn.rules.owm_low_rank import owm_low_rank
from everlearn.rules.preconditioned import preconditioned
from everlearn.rules.types import Rule, Slots

__all__ = [
    "Rule",
    "Slots",
    "adam",
    "clip_rows",
    "deep_momentum",
    "delta_momentum",
    "delta_momentum_matrix",
    "delta_momentum_printed",
    "dgd",
    "gd",
    "least_squares",
    "m3",
    "momentum",
    "newton_schulz",
    "oja",
    "omega",
    "orthogonalize",
    "owm",
    "owm_low_rank",
    "preconditioned",
]
