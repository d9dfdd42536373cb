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

_COMPOSED = {"Learner": "learner", "save": "save", "load": "load"}


def __getattr__(name: str) -> Any:
    if name in _COMPOSED:
        return getattr(importlib.import_module("everlearn.compose"), _COMPOSED[name])
    if name in _PARTS:
        return importlib.import_module(f"everlearn.{name}")
    raise AttributeError(
        f"module 'everlearn' has no attribute {name!r}; its parts are {', '.join((*_PARTS, *_COMPOSED))}"
    )


def __dir__() -> list[str]:
    return sorted([*globals(), *_PARTS, *_COMPOSED])
