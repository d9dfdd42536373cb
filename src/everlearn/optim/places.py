"""Which group of an optimizer a parameter is in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Places:
    """The places of parameters in the groups of an optimizer, looked up again when a group was added."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._index: dict[Tensor, int] = {}
        self._known = 0

    def group_of(self, weight: Tensor) -> dict[str, Any] | None:
        """Return the group of a parameter as it is now, or None for one that is not trained by this optimizer."""
        groups = self._optimizer.param_groups
        if len(groups) != self._known:
            self._index = {w: n for n, group in enumerate(groups) for w in group["params"]}
            self._known = len(groups)
        place = self._index.get(weight)
        return None if place is None else groups[place]
