"""Optimizers as memories of gradients: what each keeps between steps, and what that is fitted to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.optim import Optimizer

from everlearn.levels.component import STEPS, Component, nbytes

Group = dict[str, Any]


@dataclass(frozen=True)
class Slot:
    """One memory of gradients that an optimizer keeps for every number that it trains.

    Args:
        name: as in the optimizer's state, such as "exp_avg".
        objective: what its update descends, with m the memory and g the gradient.
        rule: how the update is taken.
    """

    name: str
    objective: str
    rule: str


def average(name: str, decay: float, of: str = "g") -> Slot:
    """Describe an average m <- b m + (1 - b) g: gradient descent on |m - g|^2 / 2 with step 1 - b.  [NL eq. 101-105]"""
    return Slot(name, f"L2 |m - {of}|^2", f"gd, step {1 - decay:.4g}")


def _sgd(group: Group) -> list[Slot]:
    """Describe torch's momentum, m <- b m + (1 - d) g: a step 1 - d down -<m, g> with retention b.  [NL eq. 10-13]"""
    momentum, step = group["momentum"], 1 - group["dampening"]
    rule = f"gd, step {step:.4g}, retention {momentum:.4g}"
    return [Slot("momentum_buffer", "dot -<m, g>", rule)] if momentum else []


def _adam(group: Group) -> list[Slot]:
    """Describe Adam's two moments.  [NL eq. 101-105]"""
    first, second = group["betas"]
    largest = [Slot("max_exp_avg_sq", "-", "maximum of exp_avg_sq")] if group.get("amsgrad") else []
    return [average("exp_avg", float(first)), average("exp_avg_sq", float(second), "g^2"), *largest]


def _adamax(group: Group) -> list[Slot]:
    first, second = group["betas"]
    return [average("exp_avg", first), Slot("exp_inf", "-", f"maximum of |g|, retention {second:.4g}")]


def _rmsprop(group: Group) -> list[Slot]:
    slots = [average("square_avg", group["alpha"], "g^2")]
    if group["momentum"]:
        slots.append(Slot("momentum_buffer", "dot -<m, u>, u the scaled g", f"gd, retention {group['momentum']:.4g}"))
    return [*slots, average("grad_avg", group["alpha"])] if group["centered"] else slots


def _adagrad(group: Group) -> list[Slot]:
    return [Slot("sum", "dot -<m, g^2>", "gd, keeps everything")]


def _adadelta(group: Group) -> list[Slot]:
    return [average("square_avg", group["rho"], "g^2"), average("acc_delta", group["rho"], "step^2")]


def _muon(group: Group) -> list[Slot]:
    return [average("momentum_buffer", group["momentum"])]


KNOWN: dict[type[Optimizer], Callable[[Group], list[Slot]]] = {
    torch.optim.SGD: _sgd,
    torch.optim.Adam: _adam,
    torch.optim.AdamW: _adam,
    torch.optim.NAdam: _adam,
    torch.optim.RAdam: _adam,
    torch.optim.Adamax: _adamax,
    torch.optim.RMSprop: _rmsprop,
    torch.optim.Adagrad: _adagrad,
    torch.optim.Adadelta: _adadelta,
    torch.optim.Muon: _muon,
}


@runtime_checkable
class Remembering(Protocol):
    """An optimizer that says itself what it keeps."""

    def memories(self) -> list[tuple[Component, list[Tensor]]] | None:
        """Return each memory and the parameters whose gradients it holds; None where that cannot be told yet."""
        ...


def gradient_memories(optimizer: Optimizer) -> list[tuple[Component, list[Tensor]]]:
    """Return what an optimizer keeps between its steps, and of which parameters.

    The optimizers of torch are known, so that their memories can be counted before the first step; of any other the
    tensors in its state are listed, and nothing is said of how they learn. Step counters (one number per tensor)
    are not counted.

    Args:
        optimizer: its groups tell which parameters it trains; frozen ones among them have no gradient and no memory.
    Returns:
        (component, parameters) of each memory; the component lacks the names of its parameters.
    """
    title = type(optimizer).__name__
    own = optimizer.memories() if isinstance(optimizer, Remembering) else None
    if own is not None:
        return own
    if type(optimizer) not in KNOWN:
        return _by_state(optimizer, title)
    found: dict[Slot, list[Tensor]] = {}
    for group in optimizer.param_groups:
        for slot in KNOWN[type(optimizer)](group):
            found.setdefault(slot, []).extend(trained(group["params"]))
    return [(gradient_memory(title, slot, nbytes(owned)), owned) for slot, owned in found.items() if owned]


def trained(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Return the parameters that receive a gradient."""
    return [parameter for parameter in parameters if parameter.requires_grad]


def unknown_memory(optimizers: Sequence[Optimizer]) -> list[str]:
    """Say of which optimizers the memory cannot be told yet."""
    return [
        f"{type(optimizer).__name__} is not an optimizer that is known here and has taken no step yet, so what it "
        "keeps does not show; describe it after its first step"
        for optimizer in optimizers
        if type(optimizer) not in KNOWN
        and not optimizer.state
        and not (isinstance(optimizer, Remembering) and optimizer.memories() is not None)
    ]


def _by_state(optimizer: Optimizer, title: str) -> list[tuple[Component, list[Tensor]]]:
    """List the tensors that an unknown optimizer keeps for each parameter."""
    kept: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for parameter, state in optimizer.state.items():
        for name, value in state.items() if isinstance(state, dict) else ():
            if isinstance(value, Tensor) and (value.ndim > 0 or value.numel() > 1):
                kept.setdefault(name, []).append((parameter, value))
    return [
        (
            gradient_memory(title, Slot(name, "-", f"state of {title}"), nbytes(v for _, v in pairs)),
            [p for p, _ in pairs],
        )
        for name, pairs in kept.items()
    ]


def gradient_memory(title: str, slot: Slot, size: int) -> Component:
    """Return one memory of gradients as a component; `title` is the optimizer's name, `size` its bytes in all."""
    return Component(
        name=f"{title}.{slot.name}",
        kind="gradient memory",
        update_period=1,
        unit=STEPS,
        state_bytes=size,
        shared=True,
        objective=slot.objective,
        rule=slot.rule,
        context_flow="gradients",
    )
