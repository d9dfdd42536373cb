"""What a stacked model costs, what it stores, and that it starts as the model that it was."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
from stacking_texts import STREAM_TOKENS
from stacking_ways import MLP, SIGHT, WINDOW, Base, all_weights, frozen, lora, only, stack, stacked

from everlearn.convert import FORMS, stack_levels
from everlearn.evals.reading_stream import late
from everlearn.evals.stacked_way import StackedWay
from everlearn.evals.ways import Way
from everlearn.evals.windows import hf_logits
from everlearn.levels import Level
from everlearn.memory.low_rank import compress_state, decompress_state

Row = dict[str, Any]
COST_TOKENS = 1_025
PROBE_TOKENS = 256
RANKS = (1, 2, 4, 8, 16)
MEMORY = "stack"


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
        "mlp_again": lambda: only(base, rates["mlp"], MLP),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, make in ways.items():
            way = make()
            start = time.process_time()
            way.read(ids)
            times[name].append((time.process_time() - start) / (len(ids) - 1) * 1e6)
    return {"one reader": {name: statistics.median(values) for name, values in times.items()}, "all": times}


def compression(base: Base, rates: Rates) -> Row:
    """Read one Shakespeare document, store what was learned in several sizes, and see what each keeps of the gain."""
    document = base.texts.take("stream", "shakespeare", STREAM_TOKENS).ids
    asked = base.texts.take("heldout", "shakespeare", STREAM_TOKENS)
    before = late(frozen(base, 0.0), asked)
    found: Row = {}
    for key in ("mlp", "last_down"):
        way = StackedWay(stack(base, rates[key], key), WINDOW)
        way.read(document)
        fresh, learned = way.model.initial_state(1), way.state
        gains, sizes = {"whole": before - late(way, asked)}, {"whole": way.state_bytes()}
        for rank in RANKS:
            packed = compress_state(learned, fresh, [MEMORY], rank=rank)
            way.state = decompress_state(packed, fresh)
            gains[f"{rank} int8"], sizes[f"{rank} int8"] = before - late(way, asked), packed.nbytes()
        kept = {name: gain / gains["whole"] for name, gain in gains.items()}
        found[key] = {"gain": gains, "bytes": sizes, "kept": kept}
    for key, make in (("all", all_weights), ("lora", lora)):
        other = make(base, rates[key])
        other.read(document)
        found[key] = {"gain": {"whole": before - late(other, asked)}, "bytes": {"whole": other.state_bytes()}}
    return found


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
