"""Pretrained weights that go on learning: levels stacked on models of Hugging Face."""

from everlearn.convert.config import StackConfig
from everlearn.convert.families import Family
from everlearn.convert.forms import FORMS, Additive, Form, additive
from everlearn.convert.level_stacking import stack_levels
from everlearn.convert.stacked import StackedModel

__all__ = ["FORMS", "Additive", "Family", "Form", "StackConfig", "StackedModel", "additive", "stack_levels"]
