"""What is stored."""

from everlearn.memory.architectures import Architecture, Matrix, NonParametric, ResidualMLP, Vector
from everlearn.memory.associative import AssociativeMemory
from everlearn.memory.combinations import refusal
from everlearn.memory.feature_maps import FeatureMap, Polynomial, elu1, identity
from everlearn.memory.health import Recall, recall, stable_rank
from everlearn.memory.ladder import LADDER
from everlearn.memory.objectives import Huber, Lp, Objective, dot, kl, l2
from everlearn.memory.retention import Anchor, Decay, Keep, Retention, TrustRegion
from everlearn.memory.state import LayerState, ModelState, concat_rows, take_level, with_layers

__all__ = [
    "LADDER",
    "Anchor",
    "Architecture",
    "AssociativeMemory",
    "Decay",
    "FeatureMap",
    "Huber",
    "Keep",
    "LayerState",
    "Lp",
    "Matrix",
    "ModelState",
    "NonParametric",
    "Objective",
    "Polynomial",
    "Recall",
    "ResidualMLP",
    "Retention",
    "TrustRegion",
    "Vector",
    "concat_rows",
    "dot",
    "elu1",
    "identity",
    "kl",
    "l2",
    "recall",
    "refusal",
    "stable_rank",
    "take_level",
    "with_layers",
]
