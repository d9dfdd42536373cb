"""Self-modifying Titans: memories that generate the keys, values and gates with which they are written."""

from everlearn.ops.self_modifying.chunk import self_modifying
from everlearn.ops.self_modifying.rule import (
    DOT,
    L2,
    MEMORIES,
    Objective,
    Readouts,
    SelfModifyingRule,
    SelfModifyingState,
    fresh_state,
)

__all__ = [
    "DOT",
    "L2",
    "MEMORIES",
    "Objective",
    "Readouts",
    "SelfModifyingRule",
    "SelfModifyingState",
    "fresh_state",
    "self_modifying",
]
