"""The mathematics, fast: one folder per op, with the literal form and the derivation beside the fast one."""

from everlearn.ops import delta_rule, titans

__all__ = ["delta_rule", "titans"]
