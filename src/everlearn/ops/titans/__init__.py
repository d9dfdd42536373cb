"""The Titans memory: `titans` is the fast form, `naive.titans` the literal one."""

from everlearn.ops.titans.chunk import TitansState, titans

__all__ = ["TitansState", "titans"]
