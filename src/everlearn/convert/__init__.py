"""Pretrained weights that go on learning: levels beside the matrices of Hugging Face models, memories for attention."""

from everlearn.convert.config import FORMS, StackConfig
from everlearn.convert.copies import ChainDiff, ChainZero, Mean, chain_diff, chain_zero, mean
from everlearn.convert.distil import DistilStep, distil, kl, next_token
from everlearn.convert.families import Family
from everlearn.convert.forms import Additive, Form, LowRank, additive, low_rank
from everlearn.convert.level_stacking import load_adapter, stack_levels
from everlearn.convert.replaced import ReplaceConfig, ReplacedModel
from everlearn.convert.replacement import load_replaced, replace_attention, replace_more
from everlearn.convert.stacked import StackedModel

__all__ = [
    "FORMS",
    "Additive",
    "ChainDiff",
    "ChainZero",
    "DistilStep",
    "Family",
    "Form",
    "LowRank",
    "Mean",
    "ReplaceConfig",
    "ReplacedModel",
    "StackConfig",
    "StackedModel",
    "additive",
    "chain_diff",
    "chain_zero",
    "distil",
    "kl",
    "load_adapter",
    "load_replaced",
    "low_rank",
    "mean",
    "next_token",
    "replace_attention",
    "replace_more",
    "stack_levels",
]
