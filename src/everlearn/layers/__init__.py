"""Layers: always `y, state = layer(x, state)`."""

from everlearn.layers.attention import Attention
from everlearn.layers.cms import CMS, IndependentCMS
from everlearn.layers.continuum import ContinuumMemory
from everlearn.layers.delta_net import DeltaMemory
from everlearn.layers.level_step import Update
from everlearn.layers.local import associate
from everlearn.layers.mlp import SwiGLU
from everlearn.layers.nested import NestedCMS
from everlearn.layers.self_modifying import SelfModifyingRule, SelfModifyingTitans
from everlearn.layers.titans import TitansMemory
from everlearn.layers.titans_attention import MemoryAsContext, MemoryAsGate, MemoryAsLayer

__all__ = [
    "CMS",
    "Attention",
    "ContinuumMemory",
    "DeltaMemory",
    "IndependentCMS",
    "MemoryAsContext",
    "MemoryAsGate",
    "MemoryAsLayer",
    "NestedCMS",
    "SelfModifyingRule",
    "SelfModifyingTitans",
    "SwiGLU",
    "TitansMemory",
    "Update",
    "associate",
]
