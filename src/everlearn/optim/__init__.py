"""Rules as optimizers: thin shells with no mathematics of their own."""

from everlearn.optim.from_rule import FromRule
from everlearn.optim.inputs import Inputs, capture

__all__ = ["FromRule", "Inputs", "capture"]
