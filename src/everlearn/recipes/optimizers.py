"""Every optimizer by name, built for a model: the one table that recipes, benchmarks and command lines share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.optim import Optimizer

from everlearn.optim import (
    DGD,
    M3,
    DeepMomentum,
    DeltaMomentum,
    Momentum,
    Muon,
    PreconditionedMomentum,
    capture,
    groups,
)
from everlearn.rules import delta_momentum_scaled

BETAS = (0.9, 0.95)  # of every AdamW, as language models are trained


@dataclass(frozen=True, kw_only=True)
class Rates:
    """The step sizes of one run.

    Args:
        lr: of the method, in the unit of its optimizer; > 0.
        adamw_lr: of AdamW where a method of matrices leaves embeddings, positions, head, norms and biases to it; > 0.
        weight_decay: decoupled, of all that has two dimensions or more: lr * weight_decay of it goes in a step; >= 0.
    Raises:
        ValueError: a rate out of its range.
    """

    lr: float
    adamw_lr: float = 4e-3
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("lr", "adamw_lr"):
            if not 0 < vars(self)[name] < float("inf"):
                raise ValueError(f"{name} is {vars(self)[name]!r}; a step size is a number above 0; try 0.004")
        if not 0 <= self.weight_decay < float("inf"):
            raise ValueError(f"weight_decay is {self.weight_decay!r}; it must be a number of at least 0; 0 is none")


Build = Callable[[nn.Module, Rates], Optimizer]


def of_everything(kind: Callable[..., Optimizer], model: nn.Module, rates: Rates) -> Optimizer:
    """Give all parameters to one optimizer of ours, vectors without decay."""
    return kind(model.named_parameters(), rates.lr, weight_decay=rates.weight_decay)


def of_matrices(kind: Callable[..., Optimizer], model: nn.Module, rates: Rates) -> Optimizer:
    """Give the hidden matrices to an optimizer for matrices, and the rest to the AdamW that is in it."""
    both = groups(model, adamw_lr=rates.adamw_lr)
    for group in both:
        group |= {"betas": BETAS} if group.get("elementwise", False) else {}
    return kind(both, rates.lr, weight_decay=rates.weight_decay)


def adamw(model: nn.Module, rates: Rates) -> Optimizer:
    """Give all parameters to torch's AdamW, vectors without decay."""
    named = list(model.named_parameters())
    wide = {"params": [pair for pair in named if pair[1].ndim > 1], "weight_decay": rates.weight_decay}
    thin = {"params": [pair for pair in named if pair[1].ndim <= 1], "weight_decay": 0.0}
    return torch.optim.AdamW([group for group in (wide, thin) if group["params"]], lr=rates.lr, betas=BETAS)


def dgd_around(kind: Build, model: nn.Module, rates: Rates, *, rho: float = 3.0) -> Optimizer:
    """Let the layers of a model decay along their inputs, around the optimizer that another builder makes."""
    return DGD(kind(model, rates), capture(model), rho=rho)


OPTIMIZERS: dict[str, Build] = {
    "adamw": adamw,
    "momentum": partial(of_everything, Momentum),
    "preconditioned": partial(of_everything, PreconditionedMomentum),
    "delta": partial(of_everything, DeltaMomentum),
    "delta_scaled": partial(of_everything, partial(DeltaMomentum, form=delta_momentum_scaled)),
    "deep": partial(of_everything, DeepMomentum),
    "dgd_adamw": partial(dgd_around, adamw),
    "muon": partial(of_matrices, Muon),
    "m3": partial(of_matrices, M3),
    "m3_fast": partial(of_matrices, partial(M3, alpha=0.0)),
}

# the rate of each on the digits, from the search of `benchmarks/optimizers.py`, which left "delta" out; another problem
# asks for another
LRS: dict[str, float] = {
    "adamw": 4e-3,
    "momentum": 0.8,
    "preconditioned": 4e-3,
    "delta": 0.4,
    "delta_scaled": 4e-3,
    "deep": 4e-3,
    "dgd_adamw": 1.6e-2,
    "muon": 2e-3,
    "m3": 2e-3,
    "m3_fast": 4e-3,
}


def build(name: str, model: nn.Module, rates: Rates) -> Optimizer:
    """Build an optimizer by its name.

    Args:
        name: a key of `OPTIMIZERS`: "adamw"; "momentum", "preconditioned", "delta" (gated), "delta_scaled" (gated, of
            gradients divided by their size) and "deep", which step every parameter; "dgd_adamw", AdamW with a decay
            along the inputs; "muon", "m3" and "m3_fast" (alpha 0), for matrices, with AdamW for the rest.
        model: whose parameters are stepped.
        rates: see `Rates`.
    Raises:
        ValueError: an unknown name, or parameters that the optimizer refuses.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer {name!r} is unknown; the names are {', '.join(OPTIMIZERS)}; choose one of them")
    return OPTIMIZERS[name](model, rates)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How the rates run over the steps: linear warm-up, then level, then linear to zero.

    Args:
        steps: of the whole run, >= 1.
        warmup: steps of warm-up, >= 0.
        decay: share of the steps at the end over which the rate falls, in [0, 1]; 0 stays level.
    Raises:
        ValueError: a number out of its range.
    Example:
        >>> schedule = Schedule(steps=10, warmup=2, decay=0.4)
        >>> [round(schedule.share(step), 2) for step in (0, 1, 6, 8, 9)]
        [0.5, 1.0, 1.0, 0.5, 0.25]
    """

    steps: int
    warmup: int = 20
    decay: float = 0.4

    def __post_init__(self) -> None:
        if self.steps < 1 or self.warmup < 0:
            raise ValueError(
                f"a schedule of {self.steps} steps with a warm-up of {self.warmup} is none; it takes at least 1 step "
                "and 0 of warm-up; give such numbers"
            )
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay is {self.decay}; it is a share of the steps, in [0, 1]; try 0.4")

    def share(self, step: int) -> float:
        """Return the share of the peak rate at a step, counted from 0."""
        up = (step + 1) / self.warmup if self.warmup else 1.0
        down = (self.steps - step) / (self.decay * self.steps) if self.decay else 1.0
        return min(1.0, up, down)


def start(optimizer: Optimizer) -> Optimizer:
    """Keep the rate of each group as its peak, which `set_rates` takes shares of."""
    for group in optimizer.param_groups:
        group["peak"] = group["lr"]
    return optimizer


def set_rates(optimizer: Optimizer, share: float) -> None:
    """Set the rate of every group to a share of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share
