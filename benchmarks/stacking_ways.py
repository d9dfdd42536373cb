"""The ways of reading that the stacking benchmark compares, each with the grid that its rate is chosen from."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from stacking_meta import Trainer
from stacking_texts import Texts
from torch import Tensor

from everlearn.convert import StackedModel, stack_levels
from everlearn.convert.families import blocks_of, find_family
from everlearn.evals.archive_way import ArchiveWay
from everlearn.evals.lora import add_low_rank
from everlearn.evals.slots_way import SlotsWay
from everlearn.evals.stacked_way import StackedWay
from everlearn.evals.ways import Adam, ClippedDescent, Frozen, Steps, Way, every_weight, fisher, named
from everlearn.evals.windows import Window, hf_logits
from everlearn.levels import Level
from everlearn.memory.slots import SlotMemory

WINDOW = Window(256, 128)
# tokens that a stacked model sees while it reads with carried keys and values; the window's targets see 128 to 256
SIGHT = 256
# chosen by benchmarks/tune_slots.py
SLOTS = {"gate": 0.8, "weight": 0.2}
LONG_SLOTS = 16_896
FACTORS = (1 / 9, 1 / 3, 1.0, 3.0, 9.0)
FISHER_TOKENS = 4_097
MLP = ("gate_proj.weight", "up_proj.weight", "down_proj.weight")


@dataclass(frozen=True)
class Recipe:
    """One way of reading.

    Args:
        name: as the tables say it.
        make: (base, eta) -> a fresh way.
        center: rate in the middle of the grid; None where there is nothing to choose.
        like: another way whose rate this one takes, instead of trials of its own.
    """

    name: str
    make: Callable[[Base, float], Way]
    center: float | None = None
    like: str | None = None


@dataclass(frozen=True)
class Base:
    """A pretrained model with what the ways need besides it."""

    model: Any
    tokenizer: Any
    texts: Texts
    starts: Trainer


def frozen(base: Base, eta: float, window: Window = WINDOW) -> Way:
    """Return the model as it came."""
    return Frozen(base.model, window)


def all_weights(base: Base, eta: float, window: Window = WINDOW, replay: float = 0.0) -> Way:
    """Return dynamic evaluation."""
    return Steps(base.model, window, every_weight, partial(ClippedDescent, eta=eta), replay=replay)


def ewc(base: Base, eta: float, strength: float) -> Way:
    """Return dynamic evaluation with a spring on each weight, as stiff as the known text needs it."""
    known = base.texts.take("known", "middlemarch", FISHER_TOKENS).ids
    importance = fisher(base.model, known, WINDOW, list(base.model.parameters()))
    step = partial(ClippedDescent, eta=eta, fisher=importance, strength=strength)
    return Steps(base.model, WINDOW, every_weight, step)


def lora(base: Base, eta: float) -> Way:
    """Return adapters of rank 8 on all linear maps, with Adam."""
    return Steps(base.model, WINDOW, add_low_rank, partial(Adam, eta=eta))


def only(base: Base, eta: float, endings: tuple[str, ...], window: Window = WINDOW) -> Way:
    """Return descent of some matrices, with the context computed again for every chunk."""
    return Steps(base.model, window, named(*endings), partial(ClippedDescent, eta=eta))


def stacked(
    base: Base,
    eta: float,
    weights: str,
    *,
    chunk_size: int = 128,
    anchor_decay: float = 0.0,
    mean: bool = False,
    learn: bool = True,
    start: str | None = None,
) -> Way:
    """Return levels stacked on the model: one fast level, or one that restarts from its own running mean."""
    model = stack(base, eta, weights, chunk_size=chunk_size, anchor_decay=anchor_decay, mean=mean)
    if start is not None:
        model.set_starts(base.starts(start))
    return StackedWay(model, WINDOW, learn=learn)


def archived(base: Base, eta: float, weights: str) -> Way:
    """Return one fast level whose state is archived with every document, and routing among what is archived."""
    return ArchiveWay(stack(base, eta, weights), WINDOW)


def stack(
    base: Base,
    eta: float,
    weights: str,
    *,
    chunk_size: int = 128,
    anchor_decay: float = 0.0,
    mean: bool = False,
) -> StackedModel:
    """Return a copy of the model with levels."""
    fast = Level("fast", chunk_size, eta=eta, anchor_decay=anchor_decay, reset="document" if mean else None)
    levels = (fast, Level("slow", mean_of="fast", decay=0.97)) if mean else (fast,)
    return stack_levels(
        copy.deepcopy(base.model), base.tokenizer, weights=weights, levels=levels, chunk_size=chunk_size, window=SIGHT
    )


def with_slots(base: Base, eta: float, capacity: int = 4096) -> Way:
    """Return the frozen model with slots, keyed by what the last MLP reads."""
    family = find_family(base.model)
    mlp = blocks_of(base.model, family)[-1].get_submodule(family.mlp)

    def keyed(ids: Tensor) -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []
        hook = mlp.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            logits = hf_logits(base.model, ids)
            return seen[0], logits
        finally:
            hook.remove()

    return SlotsWay(
        keyed, SlotMemory(capacity=capacity, **SLOTS), base.model.config.get_text_config().hidden_size, WINDOW
    )


RECIPES: dict[str, Recipe] = {
    "frozen": Recipe("frozen, window 256", frozen),
    "longer": Recipe("frozen, window 512", partial(frozen, window=Window(512, 128))),
    "all": Recipe("all weights (dynamic evaluation)", all_weights, 0.3),
    "all_32": Recipe("all weights, chunk 32", partial(all_weights, window=Window(160, 32)), 0.1),
    "ewc_weak": Recipe("all weights, EWC 0.01", partial(ewc, strength=0.01), 0.3),
    "ewc": Recipe("all weights, EWC 0.1", partial(ewc, strength=0.1), 0.3),
    "replay": Recipe("all weights, replay", partial(all_weights, replay=0.5), like="all"),
    "lora": Recipe("LoRA rank 8, Adam", lora, 0.003),
    "mlp": Recipe("levels on all MLPs", partial(stacked, weights="mlp"), 0.9),
    "mlp_32": Recipe("levels on all MLPs, chunk 32", partial(stacked, weights="mlp", chunk_size=32), 0.3),
    "last_down": Recipe("levels on the last down-projection", partial(stacked, weights="last_down"), 8.1),
    "mlp_mean": Recipe("all MLPs, slow = mean of fast", partial(stacked, weights="mlp", mean=True), like="mlp"),
    "mlp_mean_anchor": Recipe(
        "all MLPs, slow = mean of fast, anchor decay 0.02",
        partial(stacked, weights="mlp", mean=True, anchor_decay=0.02),
        like="mlp",
    ),
    "last_down_mean": Recipe(
        "last down-projection, slow = mean of fast",
        partial(stacked, weights="last_down", mean=True),
        like="last_down",
    ),
    "archive": Recipe("all MLPs, archive and route", partial(archived, weights="mlp"), like="mlp"),
    "archive_small": Recipe(
        "last down-projection, archive and route", partial(archived, weights="last_down"), like="last_down"
    ),
    "slots": Recipe("frozen, with slots", with_slots),
    "slots_room": Recipe("frozen, with slots for every token", partial(with_slots, capacity=LONG_SLOTS)),
    "carried": Recipe("frozen, carried keys and values", partial(stacked, weights="last_down", learn=False)),
    "mlp_meta": Recipe("all MLPs, meta-learned start", partial(stacked, weights="mlp", start="meta"), 0.9),
    "mlp_more": Recipe("all MLPs, start trained further", partial(stacked, weights="mlp", start="more"), 0.9),
    "carried_meta": Recipe("meta-learned start alone", partial(stacked, weights="mlp", start="meta", learn=False)),
    "carried_more": Recipe("start trained further alone", partial(stacked, weights="mlp", start="more", learn=False)),
    "mlp_again": Recipe("all MLPs, context computed again", partial(only, endings=MLP), like="mlp"),
}
