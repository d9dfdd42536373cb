"""Permuted and class-sorted digits: an MLP that learns one task after the other, without replay."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from everlearn.continual.streams import Split, digits
from everlearn.optim import DGD, M3, OWM, capture

TASKS, STEPS, BATCH, CLASSES = 5, 120, 32, 10
BIAS_LR = 1e-3
Make = Callable[[nn.Module, float], Iterable[torch.optim.Optimizer]]


@dataclass(frozen=True)
class Method:
    """An optimizer, and the three rates that it is tried with.

    Args:
        make: the optimizers of a model at a rate.
        rates: what it is tried with, in every world.
    """

    make: Make
    rates: tuple[float, ...]


@dataclass(frozen=True)
class World:
    """A stream of tasks.

    Args:
        noise: share of the labels that are drawn at random.
        ordered: the records of a task come sorted by class.
        by_class: the tasks are pairs of classes, instead of permutations of the pixels.
    """

    noise: float = 0.0
    ordered: bool = False
    by_class: bool = False


WORLDS = {
    "permuted": World(),
    "10 % of the labels wrong": World(noise=0.1),
    "20 % of the labels wrong": World(noise=0.2),
    "each task sorted by class": World(ordered=True),
    "pairs of classes": World(by_class=True),
}


def matrices_and_rest(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Return the weights of the layers, and their biases."""
    both = list(model.parameters())
    return [p for p in both if p.ndim > 1], [p for p in both if p.ndim == 1]


def with_adamw_for_biases(matrices: Callable[[nn.Module, list[Tensor], float], torch.optim.Optimizer]) -> Make:
    """Give the weights to one optimizer and the biases to AdamW."""

    def make(model: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
        weights, biases = matrices_and_rest(model)
        return [matrices(model, weights, lr), torch.optim.AdamW(biases, lr=BIAS_LR, weight_decay=0.0)]

    return make


def muon(model: nn.Module, weights: list[Tensor], lr: float, *, beta: float = 0.95) -> torch.optim.Optimizer:
    """Return torch's Muon."""
    return torch.optim.Muon(weights, lr=lr, weight_decay=0.0, momentum=beta, adjust_lr_fn="match_rms_adamw")


def slow_m3(model: nn.Module, weights: list[Tensor], lr: float) -> torch.optim.Optimizer:
    """Return M3 whose slow memory weighs as much as its fast one."""
    return M3(weights, lr, alpha=1.0, slow_period=50)


def protected(model: nn.Module, weights: list[Tensor], lr: float, *, rank: int | None = None) -> torch.optim.Optimizer:
    """Return OWM."""
    return OWM(weights, lr, inputs=capture(model), rank=rank)


def unprotected(model: nn.Module, weights: list[Tensor], lr: float) -> torch.optim.Optimizer:
    """Return OWM that protects nothing: momentum."""
    return OWM(weights, lr, inputs=capture(model), kappa=0.0)


def sgd(model: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Return SGD for everything."""
    return [torch.optim.SGD(model.parameters(), lr=lr)]


def adamw(model: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Return AdamW for everything."""
    return [torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)]


def dgd_adamw(model: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Return AdamW with a decay along the inputs."""
    return [DGD(torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0), capture(model), rho=3.0)]


METHODS = {
    "SGD": Method(sgd, (0.15, 0.5, 1.0)),
    "AdamW": Method(adamw, (3e-3, 1e-2, 2e-2)),
    "DGD around AdamW, rho 3": Method(dgd_adamw, (3e-3, 1e-2, 2e-2)),
    "Muon": Method(with_adamw_for_biases(muon), (3e-3, 1e-2, 2e-2)),
    "Muon, beta .99": Method(with_adamw_for_biases(partial(muon, beta=0.99)), (3e-3, 1e-2, 2e-2)),
    "M3, alpha 1, f 50": Method(with_adamw_for_biases(slow_m3), (3e-3, 1e-2, 2e-2)),
    "momentum, OWM's control (kappa 0)": Method(with_adamw_for_biases(unprotected), (0.15, 0.5, 1.0)),
    "OWM": Method(with_adamw_for_biases(protected), (0.6, 2.0, 4.0)),
    "OWM, rank 16": Method(with_adamw_for_biases(partial(protected, rank=16)), (0.6, 2.0, 4.0)),
}


def learn(method: Method, lr: float, world: World, seed: int, *, validation: bool = False) -> tuple[float, float]:
    """Learn five tasks in turn.

    Args:
        method: how.
        lr: its rate.
        world: what.
        seed: of the permutations, the start, the order and the noise.
        validation: measure on validation images instead of test images.
    Returns:
        accuracy on the newest task, and the mean over the four old ones.
    """
    train, held_out, test = digits()
    tasks = list(tasks_of(world, train, held_out if validation else test, seed))
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, CLASSES))
    optimizers = list(method.make(model, lr))
    draws = torch.Generator().manual_seed(seed)
    for records, _ in tasks:
        for batch in batches(records, world, draws):
            for optimizer in optimizers:
                optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch.x), batch.y).backward()
            for optimizer in optimizers:
                optimizer.step()
    with torch.no_grad():
        right = [(model(probe.x).argmax(1) == probe.y).float().mean().item() for _, probe in tasks]
    return right[-1], sum(right[:-1]) / len(right[:-1])


def tasks_of(world: World, train: Split, probe: Split, seed: int) -> Iterable[tuple[Split, Split]]:
    """Yield the records of each task and those that measure it."""
    draws = torch.Generator().manual_seed(1000 + seed)
    classes = torch.randperm(CLASSES, generator=draws)
    for task in range(TASKS):
        order = torch.randperm(64, generator=draws)
        if world.by_class:
            order, own = torch.arange(64), classes[2 * task : 2 * task + 2]
            known, asked = (part.take(torch.isin(part.y, own).nonzero()[:, 0]) for part in (train, probe))
        else:
            known, asked = train, probe
        labels = known.y
        if world.noise:
            wrong = torch.rand(len(labels), generator=draws) < world.noise
            labels = torch.where(wrong, torch.randint(CLASSES, labels.shape, generator=draws), labels)
        yield Split(known.x[:, order] / 16.0, labels), Split(asked.x[:, order] / 16.0, asked.y)


def batches(records: Split, world: World, draws: torch.Generator) -> Iterable[Split]:
    """Yield the batches of a task: drawn at random, or class by class as the images really are."""
    if world.ordered:
        places = torch.randperm(len(records.y), generator=draws)
        places = places[records.y[places].argsort(stable=True)]
        spread = torch.linspace(0, len(places) - 1, STEPS * BATCH).long()
        yield from (records.take(places[part]) for part in spread.split(BATCH))
        return
    for _ in range(STEPS):
        yield records.take(torch.randint(len(records.y), (BATCH,), generator=draws))
