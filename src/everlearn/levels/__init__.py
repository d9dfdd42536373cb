"""When a memory changes."""

from everlearn.levels.clock import Level, check_levels

__all__ = ["Level", "check_levels"]
