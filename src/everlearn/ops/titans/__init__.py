"""The Titans memory: `titans` is the fast form, `naive.titans` the literal one; `recall` only reads."""

from everlearn.ops.titans.chunk import TitansState, recall, titans

__all__ = ["TitansState", "recall", "titans"]
