"""What layers have read since the last step: their keys, or what a rule needs of them."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Protocol, Self

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils.hooks import RemovableHandle

from everlearn.optim.readings import Reading, reading_of
from everlearn.optim.statistics import Keys


class Statistic(Protocol):
    """What is kept of inputs; the sum of two says what both would have said in one batch."""

    def of_all(self, group: dist.ProcessGroup | None) -> Tensor | None:
        """Return what a rule is given, over all processes; None where none has seen a key."""
        ...

    def of_none(self) -> Tensor:
        """Return what a rule is given that only shows how much it keeps: all zeros."""
        ...

    def __add__(self, other: Self, /) -> Self:
        """Return the statistic of both inputs."""
        ...


Collect = Callable[[Reading, Tensor], Statistic | None]


class Inputs:
    """What the layers of a model have read, kept once the gradient of the output that they made has come back.

    So a reading without a backward pass leaves nothing, activation checkpointing counts a token once, and two backward
    passes before a step add up, as gradients do. Between forward and backward only the statistic is held.
    """

    def __init__(self, readings: Iterable[Reading], group: dist.ProcessGroup | None) -> None:
        self._group = group
        self._places: dict[Tensor, list[Reading]] = {}
        self._seen: dict[Reading, Statistic] = {}
        self._handles: list[RemovableHandle] = []
        self._collect: Collect = Keys.of
        self._asked = False
        for reading in readings:
            self._places.setdefault(reading.weight, []).append(reading)
            hook = self._hook(reading)
            self._handles.append(reading.layer.register_forward_hook(hook, with_kwargs=True))

    def collect(self, statistic: Collect) -> None:
        """Keep `statistic(reading, input)` from now on, instead of all keys; an optimizer asks for what it needs.

        Args:
            statistic: what to keep of one input of one layer; None keeps nothing.

        Raises:
            ValueError: another optimizer has asked before.
        """
        if self._asked:
            raise ValueError(
                "these inputs already serve an optimizer, and what one has used is gone for the other; one optimizer "
                "for each is possible: call capture(model) once more"
            )
        self._collect, self._asked = statistic, True

    @torch.compiler.disable
    def of(self, weight: Tensor) -> Tensor | None:
        """Return what is kept of the inputs of a weight since the last `forget`, over all backward passes, or None.

        All keys, [T, in], unless an optimizer has asked for something else. Where several processes train, each asks
        for the same weights in the same order.
        """
        parts = [self._seen[reading] for reading in self.readings(weight) if reading in self._seen]
        kept = functools.reduce(operator.add, parts) if parts else self._none(weight)
        return None if kept is None else kept.of_all(self._group)

    def nothing(self, weight: Tensor) -> Tensor | None:
        """Return what a rule would be given of a weight that has read nothing; None for one without a layer."""
        kept = self._none(weight)
        return None if kept is None else kept.of_none()

    def readings(self, weight: Tensor) -> list[Reading]:
        """Return the layers that read through a weight: of a tied weight only those that multiply by it as a matrix.

        A look-up in an embedding that is also the output head says nothing of what the head has read.
        """
        found = self._places.get(weight, [])
        return [reading for reading in found if not reading.looks_up] or found

    @torch.compiler.disable
    def forget(self, weight: Tensor) -> None:
        """Drop what is kept of a weight: its gradient was used or zeroed."""
        for reading in self._places.get(weight, ()):
            self._seen.pop(reading, None)

    def unseen(self, who: str, weight: Tensor, called: str) -> str:
        """Return the error for a weight without inputs: its layer's name, or `called` where it has no layer here."""
        name = next((repr(reading.name) for reading in self.readings(weight)), None)
        if name is None:
            return (
                f"{who} got no layer that reads through {called}; nn.Linear, nn.Conv1d to nn.Conv3d and nn.Embedding "
                "are captured: give biases, norms and other parameters to a group with elementwise=True"
            )
        return (
            f"{who} has seen no input for {name}; a forward and a backward pass through the layer itself are needed: "
            "call capture(model) before the first forward and before torch.compile, and keep its weight out of this "
            "optimizer where the layer is never called"
        )

    def close(self) -> None:
        """Take the hooks off the model; what was kept stays until it is forgotten."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _none(self, weight: Tensor) -> Statistic | None:
        """Return the statistic of no input, with which a process without a token takes part in a mean over all."""
        return next((self._collect(reading, reading.nothing()) for reading in self.readings(weight)), None)

    def _keep(self, reading: Reading, new: Statistic, grad: Tensor) -> None:
        """Keep what a layer has read, now that the gradient `grad` of what it said is there."""
        held = self._seen.get(reading)
        self._seen[reading] = new if held is None else held + new

    def _hook(self, reading: Reading) -> Callable[..., None]:
        # torch.compile breaks the graph here: a hook on a gradient cannot stand inside a compiled graph
        @torch.compiler.disable
        def hook(layer: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor) -> None:
            if output.requires_grad and reading.weight.requires_grad:
                x = args[0] if args else kwargs["input"]
                # products of a moment keep their width, whatever the model computes in
                with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
                    new = self._collect(reading, x)
                if new is not None:
                    output.register_hook(functools.partial(self._keep, reading, new))

        return hook


def capture(model: nn.Module, *, group: dist.ProcessGroup | None = None) -> Inputs:
    """Record what the layers of a model read from now on, for rules and optimizers that look at inputs.

    Args:
        model: its `nn.Linear`, `nn.Conv1d`, `nn.Conv2d`, `nn.Conv3d` and `nn.Embedding` get a forward hook. Call it
            before torch.compile and after everything that exchanges weights, such as `fully_shard`. A weight that is
            used without a call of its layer, as `nn.MultiheadAttention` does, is not seen.
        group: the processes that train together, over which means are taken; None for all there are.
    Returns:
        to pass to an optimizer, which says what is kept; without one, `of(weight)` returns all keys. `close()` takes
        the hooks off again, and so does the end of a `with` block.
    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> with capture(layer) as inputs:
        ...     layer(torch.tensor([[3.0, 4.0]])).sum().backward()
        >>> inputs.of(layer.weight)
        tensor([[3., 4.]])
    """
    found = (reading_of(name, layer) for name, layer in model.named_modules())
    return Inputs((reading for reading in found if reading is not None), group)
