"""A model taken apart into nested levels, by how often each part changes.  [NL def. 2-4]"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn
from torch.optim import Optimizer

from everlearn.levels.component import EVENT_RANK, RANKS, Component
from everlearn.levels.survey import survey
from everlearn.levels.system import NestedLevel, NestedSystem


def describe(
    model: nn.Module, optimizer: Optimizer | Sequence[Optimizer] | None = None, *, context: int = 1024
) -> NestedSystem:
    """Take a model apart into nested levels, by how often each part changes.  [NL def. 2-4]

    Memories change with the tokens of a row, parameters with the steps of an optimizer, and without one never. Tokens
    come before forward passes, these before events that the caller declares, and these before optimizer steps. Within
    one unit the shorter period is the faster level. An optimizer's memory and the parameters that it steps have the
    same period; the step needs the memory, so the memory is the faster level, as the paper orders ties. Layers of a
    network that change equally often share a level, however many are stacked.

    Args:
        model: any module, on any device; on "meta" nothing is allocated. Ours say themselves what they are; others
            are read by their structure, and what is not recognised is named in the notes.
        optimizer: what trains it, or several, or None for a model that is only read. One that is not torch's own is
            described by what its state holds, so after a step.
        context: tokens of one row at which a state that grows, such as keys and values, is counted; >= 0.
    Raises:
        ValueError: a context below 0.
    Example:
        >>> import torch
        >>> system = describe(nn.Linear(2, 3), torch.optim.Adam([nn.Parameter(torch.ones(1))]))
        >>> system.depth, system.parameters, system.levels[-1].title
        (2, 9, 'never')
    """
    if context < 0:
        raise ValueError(f"context {context} is below 0; give the tokens that one row has read, such as 1024")
    optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer or ())
    components, notes = survey(model, optimizers)
    names = tuple(type(each).__name__ for each in optimizers)
    return NestedSystem(type(model).__name__, names, context, _levels(components), tuple(notes))


def _levels(components: list[Component]) -> tuple[NestedLevel, ...]:
    """Sort components into levels, the fastest first; events keep the order in which they appear."""
    events = list(dict.fromkeys(c.unit for c in components if c.unit not in RANKS))

    def key(component: Component) -> tuple[int, int, float, int]:
        event = events.index(component.unit) if component.unit in events else 0
        # at the same period an optimizer's memory comes before the weights whose step needs it
        stage = 0 if component.shared else 1
        return RANKS.get(component.unit, EVENT_RANK), event, component.update_period, stage

    groups: dict[tuple[int, int, float, int], list[Component]] = {}
    for component in components:
        groups.setdefault(key(component), []).append(component)
    return tuple(
        NestedLevel(
            number, own[0].update_period, own[0].unit, tuple(replace(component, level=number) for component in own)
        )
        for number, own in enumerate((groups[k] for k in sorted(groups)), 1)
    )
