"""What is stored."""

from everlearn.memory.architectures import Architecture, Matrix, NonParametric, ResidualMLP, Vector
from everlearn.memory.archived import Archived
from everlearn.memory.associative import AssociativeMemory
from everlearn.memory.combinations import refusal
from everlearn.memory.feature_maps import FeatureMap, Polynomial, elu1, identity
from everlearn.memory.health import Recall, recall, stable_rank
from everlearn.memory.in_state import without_slots
from everlearn.memory.ladder import LADDER
from everlearn.memory.low_rank import (
    LowRank,
    PackedState,
    compress,
    compress_state,
    decompress,
    decompress_state,
)
from everlearn.memory.objectives import Huber, Lp, Objective, dot, kl, l2
from everlearn.memory.retention import Anchor, Decay, Keep, Retention, TrustRegion
from everlearn.memory.slots import SlotMemory, SlotState
from everlearn.memory.state import LayerState, ModelState, concat_rows, take_level, with_layers

__all__ = [
    "LADDER",
    "Anchor",
    "Architecture",
    "Archived",
    "AssociativeMemory",
    "Decay",
    "FeatureMap",
    "Huber",
    "Keep",
    "LayerState",
    "LowRank",
    "Lp",
    "Matrix",
    "ModelState",
    "NonParametric",
    "Objective",
    "PackedState",
    "Polynomial",
    "Recall",
    "ResidualMLP",
    "Retention",
    "SlotMemory",
    "SlotState",
    "TrustRegion",
    "Vector",
    "compress",
    "compress_state",
    "concat_rows",
    "decompress",
    "decompress_state",
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
    "without_slots",
]
