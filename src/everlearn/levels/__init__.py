"""When a memory changes."""

from everlearn.levels.clock import Level, check_levels
from everlearn.levels.consolidate import Consolidation, Verdict, consolidate

__all__ = ["Consolidation", "Level", "Verdict", "check_levels", "consolidate"]
