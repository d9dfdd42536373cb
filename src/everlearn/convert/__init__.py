"""Pretrained weights that go on learning: levels stacked on models of Hugging Face."""

from everlearn.convert.config import FORMS, StackConfig
from everlearn.convert.copies import ChainDiff, ChainZero, Mean, chain_diff, chain_zero, mean
from everlearn.convert.families import Family
from everlearn.convert.forms import Additive, Form, LowRank, additive, low_rank
from everlearn.convert.level_stacking import load_adapter, stack_levels
from everlearn.convert.stacked import StackedModel

__all__ = [
    "FORMS",
    "Additive",
    "ChainDiff",
    "ChainZero",
    "Family",
    "Form",
    "LowRank",
    "Mean",
    "StackConfig",
    "StackedModel",
    "additive",
    "chain_diff",
    "chain_zero",
    "load_adapter",
    "low_rank",
    "mean",
    "stack_levels",
]
