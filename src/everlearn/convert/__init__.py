"""Pretrained weights that go on learning: levels beside the matrices of Hugging Face models, memories in places."""

from everlearn.convert.config import FORMS, StackConfig
from everlearn.convert.copies import ChainDiff, ChainZero, Mean, chain_diff, chain_zero, mean
from everlearn.convert.distil import DistilStep, distil, kl, next_token
from everlearn.convert.families import Family
from everlearn.convert.forms import Additive, Form, LowRank, additive, low_rank
from everlearn.convert.level_stacking import load_adapter, stack_levels
from everlearn.convert.replace_config import ReplaceConfig
from everlearn.convert.replaced import ReplacedModel
from everlearn.convert.replacement import load_replaced, replace_attention, replace_blocks, replace_more
from everlearn.convert.stacked import StackedModel
from everlearn.convert.substitutes import Continuum, Delta, Substitute, continuum, delta

__all__ = [
    "FORMS",
    "Additive",
    "ChainDiff",
    "ChainZero",
    "Continuum",
    "Delta",
    "DistilStep",
    "Family",
    "Form",
    "LowRank",
    "Mean",
    "ReplaceConfig",
    "ReplacedModel",
    "StackConfig",
    "StackedModel",
    "Substitute",
    "additive",
    "chain_diff",
    "chain_zero",
    "continuum",
    "delta",
    "distil",
    "kl",
    "load_adapter",
    "load_replaced",
    "low_rank",
    "mean",
    "next_token",
    "replace_attention",
    "replace_blocks",
    "replace_more",
    "stack_levels",
]
