"""When a memory changes, and a whole model taken apart by that."""

from everlearn.levels.clock import Level, check_levels
from everlearn.levels.component import Component, Describable
from everlearn.levels.consolidate import Consolidation, Verdict, consolidate
from everlearn.levels.describe import NestedSystem, describe

__all__ = [
    "Component",
    "Consolidation",
    "Describable",
    "Level",
    "NestedSystem",
    "Verdict",
    "check_levels",
    "consolidate",
    "describe",
]
