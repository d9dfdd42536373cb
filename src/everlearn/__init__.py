"""everlearn: models that go on learning after training, and keep what they knew.

Importing this module is light; its parts are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PARTS = (
    "continual",
    "convert",
    "evals",
    "layers",
    "learn",
    "levels",
    "memory",
    "models",
    "ops",
    "rules",
    "store",
    "train",
)

# name -> the module that it comes from, and its name there
_NAMES = {
    "Learner": ("compose", "learner"),
    "save": ("compose", "save"),
    "load": ("compose", "load"),
    "stack_levels": ("convert", "stack_levels"),
}


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        module, own = _NAMES[name]
        return getattr(importlib.import_module(f"everlearn.{module}"), own)
    if name in _PARTS:
        return importlib.import_module(f"everlearn.{name}")
    raise AttributeError(f"module 'everlearn' has no attribute {name!r}; its parts are {', '.join((*_PARTS, *_NAMES))}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PARTS, *_NAMES])
