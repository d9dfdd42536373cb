"""Layers: always `y, state = layer(x, state)`."""

from everlearn.layers.cms import CMS, Update
from everlearn.layers.mlp import SwiGLU

__all__ = ["CMS", "SwiGLU", "Update"]
