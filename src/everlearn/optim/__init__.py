"""Rules as optimizers: thin shells with no mathematics of their own."""

from everlearn.levels.clock import LEVEL_CLOCK
from everlearn.optim.base import RuleOptimizer
from everlearn.optim.clocked import Clocked
from everlearn.optim.deep_momentum import DeepMomentum
from everlearn.optim.delta_momentum import DeltaMomentum
from everlearn.optim.dgd import DGD
from everlearn.optim.from_rule import FromRule
from everlearn.optim.groups import groups
from everlearn.optim.inputs import Inputs, capture
from everlearn.optim.m3 import M3
from everlearn.optim.momentum import Momentum, PreconditionedMomentum
from everlearn.optim.muon import Muon
from everlearn.optim.owm import OWM

__all__ = [
    "DGD",
    "LEVEL_CLOCK",
    "M3",
    "OWM",
    "Clocked",
    "DeepMomentum",
    "DeltaMomentum",
    "FromRule",
    "Inputs",
    "Momentum",
    "Muon",
    "PreconditionedMomentum",
    "RuleOptimizer",
    "capture",
    "groups",
]
