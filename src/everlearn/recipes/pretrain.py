"""How a preset of each size is trained from nothing: the rates, and how much a step reads."""

from __future__ import annotations

import dataclasses
from typing import Any

from everlearn.models import sized
from everlearn.models.sizes import SIZES
from everlearn.train import RunConfig, TrainConfig

# windows per step, tokens per window, steps
STEPS = {
    "tiny": (16, 256, 1_000),
    "small": (32, 512, 10_000),
    "340M": (256, 2_048, 30_000),
    "760M": (256, 2_048, 60_000),
    "1.3B": (512, 2_048, 100_000),
}
TRIED = ("tiny",)
WIDTH, LR, ADAMW_LR = 128, 8e-3, 6e-3  # of tiny


def recipe(
    name: str,
    size: str = "tiny",
    *,
    model: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    **run: Any,
) -> RunConfig:
    """Return a run of a preset at a size.

    Every preset has the rates of its size. Those of "tiny" were used on the books and on the stand-in, which is as
    wide; from there on they are extrapolated and have not been tried: Muon's falls with the width, AdamW's with its
    root.

    Attention without a window gets one of the training length: it has learned no position beyond it. (Hope-Attention
    after 200 steps on windows of 256 bytes cost 4.13 bits per byte on three texts of 6,000 bytes without a window,
    and 2.34 with one.)

    Args:
        name: a preset; see `models.preset`.
        size: a key of `models.SIZES`.
        model: fields of `DecoderConfig` to change.
        training: fields of `TrainConfig` to change; warm-up is a thirtieth of the steps where it is not given.
        run: fields of `RunConfig` to change.
    Raises:
        ValueError: an unknown preset or size, or a number out of its range.
    """
    config = sized(name, size, **(model or {}))
    rows, length, steps = STEPS[size]
    share = WIDTH / SIZES[size]["dim"]
    rates = {"lr": LR * share, "adamw_lr": ADAMW_LR * share**0.5}
    usual = TrainConfig(steps=steps, batch_size=rows, length=length, **rates)
    changed = dataclasses.replace(usual, **(training or {}))
    if "warmup" not in (training or {}):
        changed = dataclasses.replace(changed, warmup=max(1, changed.steps // 30))
    if config.window is None:
        config = dataclasses.replace(config, window=changed.length)
    return RunConfig(model=config, training=changed, **run)


def stated(config: RunConfig, size: str) -> str:
    """Say in one line how a run is trained, and whether its rates were ever tried."""
    t = config.training
    tried = "" if size in TRIED else f"; the rates of {size!r} are extrapolated, not tried"
    warmup = f"{t.warmup} step{'s' * (t.warmup != 1)}"
    return (
        f"recipe: {t.steps:,} steps of {t.batch_size} x {t.length} tokens; Muon {t.lr:.3g} for the matrices of the "
        f"blocks, AdamW {t.adamw_lr:.3g} for the rest; warm-up in {warmup}, then a cosine to a tenth; gradient clipped "
        f"to {t.clip:g}{tried}"
    )
