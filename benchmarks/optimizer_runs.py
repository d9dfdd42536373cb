"""Training runs that compare optimizers: a vision Transformer on digits, and a byte language model."""

from __future__ import annotations

import gzip
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rows import Row, row
from torch import Tensor

from everlearn.learn.chunk import token_nll
from everlearn.models import Decoder, preset
from everlearn.models.text import encode
from everlearn.models.vit import vit_sized
from everlearn.optim import M3
from everlearn.recipes.images import TensorImages, digits
from everlearn.recipes.optimizers import OPTIMIZERS, Build, Rates, Schedule, of_matrices, set_rates, start
from everlearn.recipes.vit_trainer import ViTRun, ViTTrainer

SEEDS = (0, 1, 2, 3, 4)
SEARCH_SEED = 100
NOISE = (0.1, 0.2)


@dataclass(frozen=True)
class Method:
    """One line of a table.

    Args:
        title: what it is called.
        name: its key among `recipes.optimizers.OPTIMIZERS`, or one of `OURS`.
        lrs: the rates that are searched, each twice the one before.
        weight_decay: of the matrices.
    """

    title: str
    name: str
    lrs: tuple[float, ...]
    weight_decay: float = 0.0

    @property
    def key(self) -> str:
        """Return what its rows are called."""
        return f"{self.name}-wd{self.weight_decay:g}" if self.weight_decay else self.name


def doubled(first: float, count: int) -> tuple[float, ...]:
    """Return rates that double."""
    return tuple(first * 2**n for n in range(count))


VIT = (
    Method("AdamW", "adamw", doubled(1e-3, 4)),
    Method("AdamW, weight decay .3", "adamw", doubled(1e-3, 4), 0.3),
    Method("AdamW, weight decay 1", "adamw", doubled(1e-3, 4), 1.0),
    Method("AdamW, weight decay 3", "adamw", doubled(1e-3, 4), 3.0),
    Method("momentum .9", "momentum", doubled(0.1, 4)),
    Method("preconditioned momentum", "preconditioned", doubled(1e-3, 4)),
    Method("delta momentum, gated, P = diag", "delta_scaled", doubled(1e-3, 4)),
    Method("deep momentum", "deep", doubled(1e-3, 4)),
    Method("DGD around AdamW, rho 3", "dgd_adamw", doubled(1e-3, 4)),
    Method("Muon", "muon", doubled(1e-3, 4)),
    Method("M3, alpha .3", "m3", doubled(1e-3, 4)),
    Method("M3, alpha 0", "m3_fast", doubled(1e-3, 4)),
)
NOISY = ("adamw", "adamw-wd1", "dgd_adamw", "muon", "m3")
LM_STEPS, ROWS_PER_STEP, WINDOW = 490, 16, 128
CURVE_BYTES = 16_384


def ramp(steps: int) -> Build:
    """Bring the slow memory of M3 in little by little, over the whole run."""
    return partial(of_matrices, partial(M3, alpha=lambda step: 0.3 * min(1.0, step / steps)))


def late(steps: int) -> Build:
    """Bring the slow memory of M3 in while the rate falls, when it has seen many gradients."""
    return partial(of_matrices, partial(M3, alpha=lambda step: 0.3 if step >= 0.6 * steps else 0.0))


# what depends on how long the run is
OURS: dict[str, Callable[[int], Build]] = {"m3_ramp": ramp, "m3_late": late}
LM = (
    Method("AdamW", "adamw", doubled(1e-3, 3)),
    Method("DGD around AdamW, rho 3", "dgd_adamw", doubled(1e-3, 3)),
    Method("Muon", "muon", doubled(4e-3, 3)),
    Method("M3, alpha .3", "m3", doubled(4e-3, 3)),
    Method("M3, alpha 0", "m3_fast", doubled(4e-3, 3)),
    Method("M3, alpha 0 to .3 over the run", "m3_ramp", doubled(4e-3, 3)),
    Method("M3, alpha .3 in the last 40 %", "m3_late", doubled(4e-3, 3)),
)


def vit(method: Method, lr: float, seed: int, images: TensorImages) -> Row:
    """Train the tiny vision Transformer for 200 steps of 64 images, and measure it along the way."""
    schedule = Schedule(steps=200, warmup=20, decay=0.4)
    rates = Rates(lr=lr, weight_decay=method.weight_decay)
    run = ViTRun(model=vit_sized(), optimizer=method.name, rates=rates, schedule=schedule, seed=seed)
    trainer = ViTTrainer(run, images)
    losses, curve, spent = [], [], 0.0
    while trainer.step_number < schedule.steps:
        begun = time.process_time()
        losses.append(trainer.step())
        spent += time.process_time() - begun
        if trainer.step_number % 20 == 0:
            score = trainer.test()
            curve.append([trainer.step_number, spent, score.loss, score.accuracy])
    return {"loss": curve[-1][2], "accuracy": curve[-1][3], "train": statistics.fmean(losses[-20:]), "curve": curve}


@dataclass(frozen=True)
class Text:
    """Bytes to train on and bytes to measure on, [N] each."""

    train: Tensor
    test: Tensor

    @classmethod
    def of(cls, file: Path) -> Text:
        """Read a text, gzipped or not; the last tenth is for testing, as is usual for it."""
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        ids = encode(data)
        return cls(ids[: len(ids) * 9 // 10], ids[len(ids) * 9 // 10 :])

    def for_search(self) -> Text:
        """Return the training text alone, its last tenth for testing."""
        cut = len(self.train) * 9 // 10
        return Text(self.train[:cut], self.train[cut:])


def language(method: Method, lr: float, seed: int, text: Text, steps: int = LM_STEPS) -> Row:
    """Train a byte model of 0.25 M parameters in steps of 2,048 bytes, and measure it along the way."""
    torch.manual_seed(seed)
    model = Decoder(preset("transformer++", dim=96, num_layers=2, num_heads=4, hidden_dim=256))
    rates = Rates(lr=lr, weight_decay=method.weight_decay)
    build = OURS[method.name](steps) if method.name in OURS else OPTIMIZERS[method.name]
    optimizer = start(build(model, rates))
    schedule = Schedule(steps=steps, warmup=20, decay=0.4)
    dice = torch.Generator().manual_seed(seed)
    curve, spent = [], 0.0
    for step in range(steps):
        begun = time.process_time()
        places = torch.randint(len(text.train) - WINDOW, (ROWS_PER_STEP, 1), generator=dice)
        ids = text.train[places + torch.arange(WINDOW + 1)].long()
        token_nll(model(ids[:, :-1])[0], ids[:, 1:]).mean().backward()
        set_rates(optimizer, schedule.share(step))
        optimizer.step()
        optimizer.zero_grad()
        spent += time.process_time() - begun
        if (step + 1) % 35 == 0:
            curve.append([step + 1, spent, nats(model, text.test[: CURVE_BYTES + 1])])
    return {"loss": nats(model, text.test), "curve": curve, "cpu": spent}


@torch.no_grad()
def nats(model: Decoder, ids: Tensor) -> float:
    """Return nats per byte of a text, in windows that each begin anew."""
    count = (len(ids) - 1) // WINDOW
    places = WINDOW * torch.arange(count)[:, None] + torch.arange(WINDOW + 1)
    parts = [token_nll(model(part[:, :-1])[0], part[:, 1:]) for part in ids.long()[places].split(64)]
    return float(torch.cat(parts).mean())


# what is also trained for as many steps as fit into AdamW's time
IN_TIME = ("dgd_adamw", "muon", "m3", "m3_fast")
Measure = Callable[[Method, float, int], Row]


def searched(world: str, method: Method, measure: Measure) -> list[dict[str, Any]]:
    """Return the loss of each rate on the search's own split; one rate more on the side where the best is the last."""

    def tried(lr: float) -> dict[str, Any]:
        found = row(f"optim-{world}-search-{method.key}-{lr:g}", lambda: measure(method, lr, SEARCH_SEED))
        return {"lr": lr, "loss": found["loss"], "where": found["where"]}

    found = [tried(lr) for lr in method.lrs]
    lowest = best(found)
    if lowest in (method.lrs[0], method.lrs[-1]):
        found.append(tried(lowest / 2 if lowest == method.lrs[0] else lowest * 2))
    return found


def best(found: list[dict[str, Any]]) -> float:
    """Return the rate with the lowest loss; one that is no number is the worst."""
    return min(found, key=lambda one: one["loss"] if one["loss"] == one["loss"] else float("inf"))["lr"]


def compared(world: str, methods: tuple[Method, ...], search: Measure, final: Measure) -> dict[str, Row]:
    """Search every method's rate, then measure it for every seed of the table."""
    tried = {method.key: searched(world, method, search) for method in methods}
    rows: dict[str, Row] = {
        method.key: {"title": method.title, "lr": best(tried[method.key]), "search": tried[method.key], "runs": []}
        for method in methods
    }
    # seed by seed, so that an interrupted comparison has the same seeds of every method
    for seed in SEEDS:
        for method in methods:
            line = rows[method.key]
            name = f"optim-{world}-{method.key}-{seed}"
            line["runs"].append(row(name, lambda m=method, lr=line["lr"], s=seed: final(m, lr, s)))
    return rows


def vision() -> dict[str, Row]:
    """Compare on digits."""
    images = digits()
    inner = images.for_search()
    return compared("vit", VIT, lambda m, lr, s: vit(m, lr, s, inner), lambda m, lr, s: vit(m, lr, s, images))


def noisy(clean: dict[str, Row]) -> dict[str, dict[str, list[Row]]]:
    """Compare on digits of which some are labelled wrong, with the rates that were searched on clean ones."""
    images = digits()
    rows: dict[str, dict[str, list[Row]]] = {}
    for method in [m for m in VIT if m.key in NOISY]:
        for share in NOISE:
            runs = [
                row(
                    f"optim-vit-noise{share:g}-{method.key}-{seed}",
                    lambda m=method, x=share, s=seed: vit(m, clean[m.key]["lr"], s, images.with_label_noise(x, s)),
                )
                for seed in SEEDS
            ]
            rows.setdefault(method.key, {})[f"{share:g}"] = runs
    return rows


def bytes_of(file: Path) -> dict[str, Row]:
    """Compare on a text, at equal steps and in equal CPU time; the search runs half as long."""
    text = Text.of(file)
    inner = text.for_search()

    def search(method: Method, lr: float, seed: int) -> Row:
        return language(method, lr, seed, inner, LM_STEPS // 2)

    rows = compared("lm", LM, search, lambda m, lr, s: language(m, lr, s, text))
    cpu = {key: statistics.fmean(run["cpu"] for run in line["runs"]) for key, line in rows.items()}
    for method in [m for m in LM if m.key in IN_TIME]:
        line, steps = rows[method.key], round(LM_STEPS * cpu["adamw"] / cpu[method.key])
        line["in_time"] = [
            row(
                f"optim-lm-{method.key}-in-time-{seed}",
                lambda m=method, at=line["lr"], n=steps, s=seed: in_time(m, at, s, text, n),
            )
            for seed in SEEDS
        ]
    return rows


def in_time(method: Method, lr: float, seed: int, text: Text, steps: int) -> Row:
    """Train for other steps, and say how many."""
    return language(method, lr, seed, text, steps) | {"steps": steps}
