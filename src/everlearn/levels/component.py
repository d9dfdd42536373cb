"""What one part of a model is in the paper's terms: what it compresses, how, and how often.  [NL def. 2]"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

TOKENS, FORWARDS, STEPS, NEVER = "tokens", "forwards", "optimizer steps", "never"

# what changes with a unit of lower rank is faster; any other word is an event that the caller declares
RANKS = {TOKENS: 0, FORWARDS: 1, STEPS: 3, NEVER: 4}
EVENT_RANK = 2


@dataclass(frozen=True, kw_only=True)
class Component:
    """One part of a model that has a pace of its own, as `describe` lists it.  [NL def. 2]

    A layer returns its components from `components()`: the memories that change while it reads, and the parameters
    that change only in training. The layer leaves `level` and the counts of parameters alone: `describe` fills them
    in, because only the whole model shows which weights are tied, frozen, or stepped by an optimizer.

    Args:
        name: within its layer, such as "fast"; "" stands for the layer itself. `describe` puts the path in front.
        kind: its architecture, such as "matrix memory" or "MLP".
        update_period: how many `unit` pass between two updates; math.inf for parameters, until an optimizer is given.
        unit: "tokens" of the row, "forwards", "optimizer steps", the word of an event, or "never".
        owns: names of the layer's parameters, or of modules within it, that are this component.
        parameters: how many numbers those are, tied ones counted once.
        parameter_bytes: what they take in their own precision.
        state_bytes: what it carries between calls for one row (of an optimizer: in all), whatever was read.
        token_bytes: what it keeps for each token of the context on top.
        max_tokens: tokens of context that it keeps, or None for all.
        carried: False where it keeps the tokens of one forward pass and carries nothing to the next.
        shared: True where all rows share its state, as they share an optimizer.
        objective: what its update descends, or "-".
        rule: how one update is taken.
        context_flow: what it compresses.
        start_from: names within the layer of the parameters, or of the other memory, that it restarts from.
        conditioned_on: names within the layer of the parameters that make its keys and values.
        gradient_of: names of the components whose gradients it compresses.
        level: place in the nested system, 1 changes most often; 0 before `describe` has decided.
    Raises:
        ValueError: a period that is not above zero, a size below it, or a word where names are listed.
    """

    name: str
    kind: str
    update_period: int | float = math.inf
    unit: str = NEVER
    owns: tuple[str, ...] = ()
    parameters: int = 0
    parameter_bytes: int = 0
    state_bytes: int = 0
    token_bytes: int = 0
    max_tokens: int | None = None
    carried: bool = True
    shared: bool = False
    objective: str = "-"
    rule: str = "-"
    context_flow: str = "-"
    start_from: tuple[str, ...] = ()
    conditioned_on: tuple[str, ...] = ()
    gradient_of: tuple[str, ...] = ()
    level: int = 0

    def __post_init__(self) -> None:
        if not self.update_period > 0:
            raise ValueError(
                f"update_period {self.update_period} of component {self.name!r} is not above zero; give the "
                f"{self.unit} between two updates, or math.inf"
            )
        for name in ("owns", "start_from", "conditioned_on", "gradient_of"):
            if isinstance(vars(self)[name], str):
                raise ValueError(
                    f"{name} of component {self.name!r} is the word {vars(self)[name]!r}, which counts letter by "
                    f"letter; give a tuple: ({vars(self)[name]!r},)"
                )
        for name in ("parameters", "parameter_bytes", "state_bytes", "token_bytes"):
            if vars(self)[name] < 0:
                raise ValueError(
                    f"{name} of component {self.name!r} is {vars(self)[name]}; a count is 0 or more: leave it out"
                )

    def held(self, context: int) -> int:
        """Return the bytes that it holds once a row has read `context` tokens; of one pass where nothing is carried."""
        tokens = context if self.max_tokens is None else min(context, self.max_tokens)
        return self.state_bytes + self.token_bytes * tokens

    @property
    def is_memory(self) -> bool:
        """Tell whether it is a memory with a state, and not parameters."""
        return not self.owns and not self.parameters

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data; an endless period becomes None, with the unit "never"."""
        data = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        del data["owns"]
        return {**data, "update_period": None if self.update_period == math.inf else self.update_period}


@runtime_checkable
class Describable(Protocol):
    """A module that says itself what its components are."""

    def components(self) -> list[Component]:
        """Return the components of this module alone; those of the modules within it are asked for by themselves."""
        ...


def pace(update_period: int | float | str) -> tuple[int | float, str]:
    """Return `(update_period, unit)` of a component whose level has this update_period.

    Example:
        >>> pace(64), pace("session"), pace(math.inf)
        ((64, 'tokens'), (1, 'session'), (inf, 'never'))
    """
    if isinstance(update_period, str):
        return 1, update_period
    return update_period, NEVER if update_period == math.inf else TOKENS


def rule_name(rule: Callable[..., Any]) -> str:
    """Return the name of an update rule, with the settings that `functools.partial` gave it."""
    if isinstance(rule, functools.partial):
        return f"{rule_name(rule.func)}({', '.join(f'{name}={value}' for name, value in rule.keywords.items())})"
    return rule.__name__ if inspect.isroutine(rule) or isinstance(rule, type) else type(rule).__name__


def nbytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes that tensors take, on any device, "meta" included."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def row_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes that one row takes of state tensors, [B, ...], whatever B is."""
    return sum(math.prod(tensor.shape[1:]) * tensor.element_size() for tensor in tensors)
