"""What `describe` returns: components, levels, and the nested system that they are.  [NL def. 2-4]"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from everlearn.levels.component import NEVER, RANKS, Component
from everlearn.levels.drawing import draw
from everlearn.levels.table import table

FORMAT = 1


@dataclass(frozen=True)
class Flow:
    """Knowledge that passes from one component to another.

    Args:
        source: name of the component that it comes from.
        target: name of the component that it reaches.
        kind: "conditioning" (parameters make what a memory stores), "start" (a memory begins as its parameters),
            "gradient" (into an optimizer's memory) or "step" (back to the parameters).
    """

    source: str
    target: str
    kind: str


@dataclass(frozen=True)
class NestedLevel:
    """The components that change equally often.  [NL def. 2]

    Args:
        number: 1 changes most often.
        update_period: how many `unit` pass between two updates; math.inf where the unit is "never".
        unit: see `Component`.
        components: in the model's order.
    """

    number: int
    update_period: int | float
    unit: str
    components: tuple[Component, ...]

    @property
    def title(self) -> str:
        """Return when it changes, in words.

        Example:
            >>> NestedLevel(1, 64, "tokens", ()).title, NestedLevel(2, 1, "session", ()).title
            ('every 64 tokens', 'every session')
        """
        if self.unit == NEVER:
            return "never"
        word = self.unit.removesuffix("s") if self.update_period == 1 and self.unit in RANKS else self.unit
        return f"every {word}" if self.update_period == 1 else f"every {self.update_period:,} {word}"

    @property
    def parameters(self) -> int:
        """Return how many parameters it holds."""
        return sum(component.parameters for component in self.components)

    def held(self, context: int) -> int:
        """Return the bytes of state that it holds for one row, and that all rows share, after `context` tokens."""
        return sum(component.held(context) for component in self.components)


@dataclass(frozen=True)
class NestedSystem:
    """The nested system that a model is: levels from the fastest to the slowest.  [NL def. 3-4]

    Args:
        name: class of the model.
        optimizers: classes of the optimizers, in the order given.
        context: tokens of one row at which state that grows is counted.
        levels: the fastest first.
        notes: what could not be told, and what is counted once.
    """

    name: str
    optimizers: tuple[str, ...]
    context: int
    levels: tuple[NestedLevel, ...]
    notes: tuple[str, ...] = ()

    @property
    def components(self) -> tuple[Component, ...]:
        """Return the components of all levels, the fastest first."""
        return tuple(component for level in self.levels for component in level.components)

    @property
    def depth(self) -> int:
        """Return the number of nested levels."""
        return len(self.levels)

    @property
    def parameters(self) -> int:
        """Return how many parameters the model has, tied ones counted once."""
        return sum(component.parameters for component in self.components)

    @property
    def parameter_bytes(self) -> int:
        """Return what the parameters take."""
        return sum(component.parameter_bytes for component in self.components)

    @property
    def state_bytes(self) -> int:
        """Return what one row carries from call to call after `context` tokens."""
        own = [component for component in self.components if component.carried and not component.shared]
        return sum(component.held(self.context) for component in own)

    @property
    def optimizer_bytes(self) -> int:
        """Return what the optimizers keep, which all rows share."""
        return sum(component.state_bytes for component in self.components if component.shared)

    def flows(self) -> tuple[Flow, ...]:
        """Return how knowledge passes between the components."""
        flows = []
        for component in self.components:
            flows += [Flow(source, component.name, "conditioning") for source in component.conditioned_on]
            flows += [Flow(source, component.name, "start") for source in component.start_from]
            for source in component.gradient_of:
                flows += [Flow(source, component.name, "gradient"), Flow(component.name, source, "step")]
        return tuple(flows)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data; its keys are explained in docs/guide/describe.md."""
        return {
            "format": FORMAT,
            "name": self.name,
            "optimizers": list(self.optimizers),
            "depth": self.depth,
            "context": self.context,
            "parameters": self.parameters,
            "parameter_bytes": self.parameter_bytes,
            "state_bytes": self.state_bytes,
            "optimizer_bytes": self.optimizer_bytes,
            "levels": [
                {
                    "level": level.number,
                    "update_period": None if level.update_period == math.inf else level.update_period,
                    "unit": level.unit,
                    "parameters": level.parameters,
                    "held_bytes": level.held(self.context),
                    "components": [
                        component.to_dict() | {"held_bytes": component.held(self.context)}
                        for component in level.components
                    ],
                }
                for level in self.levels
            ],
            "flows": [vars(flow) for flow in self.flows()],
            "notes": list(self.notes),
        }

    def table(self) -> str:
        """Return the description as aligned plain text."""
        return table(self)

    def svg(self) -> str:
        """Return a drawing as SVG: levels from fast to slow, their components, and what passes between them."""
        return draw(self)
