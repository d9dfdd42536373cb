"""What a stacked model costs, what it stores, and that it starts as the model that it was."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
from stacking_ways import SIGHT, Base, frozen, only, stacked

from everlearn.convert import FORMS, stack_levels
from everlearn.evals.ways import Way
from everlearn.evals.windows import hf_logits
from everlearn.levels import Level

Row = dict[str, Any]
COST_TOKENS = 1_025
PROBE_TOKENS = 256


class Rates(Protocol):
    """The rate of every way."""

    def __getitem__(self, key: str) -> float:
        """Return that of one way."""
        ...


def cost(base: Base, rates: Rates, rounds: int = 5) -> Row:
    """Time one reader in processor seconds, every way in turn, in one process; microseconds per token."""
    ids = base.texts.take("tune", "austen", COST_TOKENS).ids
    ways: dict[str, Callable[[], Way]] = {
        "window": lambda: frozen(base, 0.0),
        "streaming": lambda: stacked(base, 0.0, "last_down", learn=False),
        "last_down": lambda: stacked(base, rates["last_down"], "last_down"),
        "mlp": lambda: stacked(base, rates["mlp"], "mlp"),
        "mlp_again": lambda: only(base, rates["mlp"], ("gate_proj.weight", "up_proj.weight", "down_proj.weight")),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, make in ways.items():
            way = make()
            start = time.process_time()
            way.read(ids)
            times[name].append((time.process_time() - start) / (len(ids) - 1) * 1e6)
    return {"one reader": {name: statistics.median(values) for name, values in times.items()}, "all": times}


def identity(base: Base) -> Row:
    """Compare the logits of every form with those of the model, before anything is learned."""
    ids = base.texts.take("tune", "austen", PROBE_TOKENS).ids[None]
    with torch.no_grad():
        before = hf_logits(base.model, ids)
    differences = {}
    for name, form in FORMS.items():
        for count in (2, 3) if name == "mean" else (1, 3):
            levels = [Level(f"level{i}", 128, eta=0.1) for i in range(count)]
            model = stack_levels(copy.deepcopy(base.model), form=form, levels=levels, window=SIGHT)
            after, _ = model(ids)
            with torch.no_grad(), model.using(model.initial_state(1)):
                again = hf_logits(model.base, ids)
            differences[f"{name} of {count}"] = float(max((after - before).abs().max(), (again - before).abs().max()))
    return {"forms": {"largest_difference": differences}}
