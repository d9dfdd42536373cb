"""What optimizers that look at inputs, and the level clock, add to a training step."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import protect_text
import torch
from torch import nn

from everlearn.optim import DGD, LEVEL_CLOCK, Clocked, capture

ROUNDS, STEPS = 6, 8
Make = Callable[[nn.Module], protect_text.Optimizers]


def plain(model: nn.Module) -> protect_text.Optimizers:
    """Return AdamW in four groups."""
    every = list(model.parameters())
    return [torch.optim.AdamW([{"params": every[n::4]} for n in range(4)], lr=1e-3)]


def clocked(model: nn.Module) -> protect_text.Optimizers:
    """Return the same on the published clock."""
    return [Clocked(plain(model)[0], LEVEL_CLOCK)]


def decaying(model: nn.Module) -> protect_text.Optimizers:
    """Return the same with a decay along the inputs."""
    return [DGD(plain(model)[0], capture(model))]


WAYS: dict[str, Make] = {
    "AdamW": plain,
    "Clocked around AdamW, 1/4/16/64": clocked,
    "DGD around AdamW": decaying,
    "Muon": partial(protect_text.muon, lr=1e-3),
    "OWM": partial(protect_text.protected, lr=1.0),
    "OWM, rank 32": partial(protect_text.protected, lr=1.0, rank=32),
}


def measure() -> dict[str, Any]:
    """Time forward, backward and step of a small byte model, interleaved; the least of the rounds is kept.

    Returns:
        "step" and "whole", seconds of CPU per training step in the optimizer alone and in all, and "bytes" kept for
        each parameter.
    """
    ids = torch.randint(256, (protect_text.BATCH, protect_text.LENGTH + 1), generator=torch.Generator().manual_seed(0))
    made = {}
    for name, make in WAYS.items():
        model = protect_text.build(0)
        made[name] = model, make(model)
    best = {name: [float("inf"), float("inf")] for name in WAYS}
    for _ in range(ROUNDS):
        for name, (model, optimizers) in made.items():
            steps, start = 0.0, time.process_time()
            for _ in range(STEPS):
                for optimizer in optimizers:
                    optimizer.zero_grad()
                protect_text.loss_of(model, ids).backward()
                before = time.process_time()
                for optimizer in optimizers:
                    optimizer.step()
                steps += time.process_time() - before
            spent = steps / STEPS, (time.process_time() - start) / STEPS
            best[name] = [min(pair) for pair in zip(best[name], spent, strict=True)]
    kept = {
        name: protect_text.kept_bytes(optimizers) / sum(p.numel() for p in model.parameters())
        for name, (model, optimizers) in made.items()
    }
    return {name: {"step": best[name][0], "whole": best[name][1], "bytes": kept[name]} for name in WAYS}
