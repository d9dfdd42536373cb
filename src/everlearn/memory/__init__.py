"""What is stored."""

from everlearn.memory.state import LayerState, ModelState, concat_rows, take_level, with_layers

__all__ = ["LayerState", "ModelState", "concat_rows", "take_level", "with_layers"]
