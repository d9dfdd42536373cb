"""The delta rule of a matrix memory: `delta_rule` is the fast form, `naive.delta_rule` the literal one."""

from everlearn.ops.delta_rule.chunk import delta_rule

__all__ = ["delta_rule"]
