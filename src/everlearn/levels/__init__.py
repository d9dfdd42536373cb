"""When a memory changes, and a whole model taken apart by that."""

from everlearn.levels.clock import Level, check_levels
from everlearn.levels.component import Component, Describable
from everlearn.levels.describe import NestedSystem, describe

__all__ = ["Component", "Describable", "Level", "NestedSystem", "check_levels", "describe"]
