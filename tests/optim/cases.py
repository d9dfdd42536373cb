"""The optimizers that the suite holds to one list: a new one is one more row of CASES."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from everlearn import optim, rules


@dataclass(frozen=True)
class Case:
    """One optimizer and what it is given.

    Args:
        make: makes it from parameters or groups, and the keyword lr among others.
        lr: with which it solves the small problems, falling to zero along a line.
        rule: the pure function that it steps by; None where the suite does not compare.
        inputs: it needs the inputs of layers, so that it is made from a captured model alone: `inputs=capture(model)`.
        any_shape: it steps every number by itself, complex ones too.
        size: its step does not grow with the gradient.
    """

    make: Callable[..., torch.optim.Optimizer]
    lr: float
    rule: rules.Rule | None = None
    inputs: bool = False
    any_shape: bool = False
    size: bool = False


def scheduled(params: Any, lr: float, **options: Any) -> torch.optim.Optimizer:
    """Make an M3 whose slow memory comes in step by step."""
    return optim.M3(params, lr, alpha=lambda step: min(0.3, 0.02 * step), slow_period=4, **options)


def decaying(params: Any, lr: float, *, inputs: optim.Inputs, **options: Any) -> torch.optim.Optimizer:
    """Make a momentum with a small decay along the inputs."""
    return optim.DGD(optim.Momentum(params, lr, **options), inputs, rho=0.01)


def clocked(params: Any, lr: float, **options: Any) -> torch.optim.Optimizer:
    """Make a momentum whose last group, where there are two, steps every other step."""
    inner = optim.Momentum(params, lr, **options)
    return optim.Clocked(inner, [1, 2][: len(inner.param_groups)])


CASES = {
    "momentum": Case(optim.Momentum, 0.3, rules.momentum, any_shape=True),
    "momentum_sum": Case(
        partial(optim.Momentum, average=False), 0.05, partial(rules.momentum, average=False), any_shape=True
    ),
    "preconditioned": Case(optim.PreconditionedMomentum, 0.1, rules.preconditioned, any_shape=True, size=True),
    "delta_momentum": Case(optim.DeltaMomentum, 0.3, rules.delta_momentum),
    "delta_momentum_matrix": Case(
        partial(optim.DeltaMomentum, form=rules.delta_momentum_matrix), 0.3, rules.delta_momentum_matrix
    ),
    "deep_momentum": Case(optim.DeepMomentum, 0.05, rules.deep_momentum, size=True),
    "muon": Case(optim.Muon, 0.3, rules.newton_schulz, size=True),
    "m3": Case(optim.M3, 0.3, rules.m3, size=True),
    "m3_scheduled": Case(scheduled, 0.3, size=True),
    "m3_no_slow": Case(partial(optim.M3, alpha=0.0), 0.3, partial(rules.m3, alpha=0.0), size=True),
    "from_rule": Case(
        lambda params, lr, **options: optim.FromRule(params, rules.adam, lr, **options), 0.1, rules.adam, size=True
    ),
    "owm": Case(optim.OWM, 1.0, rules.owm, inputs=True),
    "owm_low_rank": Case(partial(optim.OWM, rank=4), 1.0, inputs=True),
    "dgd": Case(decaying, 0.3, inputs=True),
    "clocked": Case(clocked, 0.3, any_shape=True),
    "from_rule_with_inputs": Case(
        lambda params, lr, **options: optim.FromRule(params, rules.owm, lr, **options), 1.0, rules.owm, inputs=True
    ),
}


def model(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Return two linear layers, of which the first has no bias, the same in every call."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 9, bias=False), nn.Tanh(), nn.Linear(9, 3)).to(dtype)


def batch(step: int, rows: int = 8, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs and targets of a step: what a fixed network says, and noise."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(rows, 5, generator=generator, dtype=torch.float64)
    y = torch.stack([x[:, 0] * 0.5, (x[:, 1] - x[:, 2]).tanh(), x[:, 3:].sum(1) * 0.3], 1)
    return x.to(dtype), (y + 0.01 * torch.randn(y.shape, generator=generator, dtype=torch.float64)).to(dtype)


def groups_of(network: nn.Module, case: Case) -> list[dict[str, Any]]:
    """Give the weights of the linear layers to the rule and the bias to AdamW, with their names."""
    named = list(network.named_parameters())
    matrices = {"params": [(name, p) for name, p in named if p.ndim > 1]}
    return [matrices, {"params": [(name, p) for name, p in named if p.ndim == 1], "elementwise": True, "lr": 0.01}]


def build(case: Case, network: nn.Module, **options: Any) -> torch.optim.Optimizer:
    """Return the optimizer of a row for a network."""
    if case.inputs:
        options["inputs"] = optim.capture(network)
    return case.make(groups_of(network, case), **{"lr": case.lr, **options})


def train(
    network: nn.Module, optimizer: torch.optim.Optimizer, steps: int, start: int = 0, *, falling: int = 0
) -> list[float]:
    """Train on the small regression; return the losses. With `falling` the rate falls to zero in that many steps."""
    losses, dtype = [], next(network.parameters()).dtype
    rates = [group["lr"] for group in optimizer.param_groups]
    for step in range(start, start + steps):
        x, y = batch(step, dtype=dtype)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - step / falling) if falling else rate
        optimizer.zero_grad()
        loss = (network(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def weights(network: nn.Module) -> torch.Tensor:
    """Return all parameters as one vector."""
    return torch.cat([p.detach().flatten() for p in network.parameters()])
