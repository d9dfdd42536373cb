"""An optimizer around another: its groups, state and gradients are those of the one inside."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from everlearn.levels.component import Component
from everlearn.levels.gradients import gradient_memories, trained


class Around(torch.optim.Optimizer):
    """Change what another optimizer does with its gradients, and leave everything else to it.

    Groups and state are those of the optimizer inside, also after they were loaded, so schedulers, gradient scalers and
    checkpoints see one optimizer.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.inner = optimizer
        # groups and state belong to the inner optimizer; what is left of the constructor's work are hooks on steps
        super().__setstate__({})

    # torch keeps these as attributes; here they are those of the optimizer inside
    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The groups of the optimizer inside."""
        return self.inner.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The state of the optimizer inside."""
        return self.inner.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The defaults of the optimizer inside."""
        return self.inner.defaults

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith(("_optimizer_", "_zero_grad"))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        super().__setstate__({})

    # torch.compile leaves this step as it is: lists that change between steps would be traced again and again
    @torch.compiler.disable
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step; return what `closure` returned, or None."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients."""
        self.inner.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer inside and what is kept around it."""
        return self.inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.inner.load_state_dict(state_dict)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Train more parameters."""
        self.inner.add_param_group(param_group)

    def memories(self) -> list[tuple[Component, list[Tensor]]] | None:
        """Return what the optimizer inside keeps, as `describe` shows it; None where that cannot be told yet."""
        found = gradient_memories(self.inner)
        return found if found or self.inner.state or not trained(self._parameters()) else None

    @abstractmethod
    def _step(self) -> None:
        """Take one step with the gradients that are there."""

    def _parameters(self) -> list[Tensor]:
        """Return the parameters of all groups."""
        return [weight for group in self.param_groups for weight in group["params"]]


def called(group: dict[str, Any], weight: Tensor) -> str:
    """Return how to speak of a parameter in an error: its name where the group has names, or its shape."""
    names = group.get("param_names")
    place = next(n for n, other in enumerate(group["params"]) if other is weight)
    return f"parameter {names[place]!r}" if names else f"a parameter {tuple(weight.shape)}"
