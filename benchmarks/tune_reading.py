"""Choose the step sizes of the reading demo on validation files only: `python benchmarks/tune_reading.py`.

Five trials for every way of learning. Printed: bits per byte at the late positions of eight validation files, and the
damage to held-out text after reading two of them. The choice, kept in `everlearn.recipes.byte_reader`:

- levels: the least damage among rates whose late bits are within 0.02 of the best;
- one rate (the control): the rate whose late bits come closest to those of the levels, so that the damage of both can
  be compared at the same gain;
- all weights (the baseline): the best late bits.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path

import torch

from everlearn.demo import reading
from everlearn.demo.base import load_or_train
from everlearn.demo.corpus import standard_library, validation_files
from everlearn.evals.dynamic_evaluation import dynamic_evaluation
from everlearn.levels import Level
from everlearn.models import Decoder
from everlearn.recipes import byte_reader

LEVEL_RATES = (0.1, 0.2, 0.3, 0.45, 0.7)
ONE_RATES = (0.03, 0.06, 0.1, 0.2, 0.3)
ALL_WEIGHTS_RATES = (0.03, 0.06, 0.1, 0.2, 0.3)


def trial(model: Decoder, levels: tuple[Level, ...], texts: reading.Texts, ids: torch.Tensor) -> tuple[float, float]:
    """Return late bits per byte and damage for one choice of levels."""
    model = model.with_levels(levels)
    bits, opened = reading._learn(model, ids)
    ways = {"learning": bits, "frozen": bits}
    kept = reading._kept(model, texts, ids, opened, ways)["kept"]
    return float(bits[:, 4096:].mean()), kept["after"] - kept["before"]


def main() -> None:
    """Run every trial and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=Path("results/base-0"), help="folder of the base model (seed 0)")
    base = parser.parse_args().base
    torch.set_num_threads(1)
    model, _ = load_or_train(base, seed=0)
    known, heldout = standard_library(byte_reader.TRAIN_BYTES, 150_000)
    texts = reading.Texts(known, heldout, validation_files(known, 8))
    ids = reading._rows(texts.files, reading.LENGTH)
    print(f"frozen: {float(reading._frozen(model, ids)[:, 4096:].mean()):.3f}", flush=True)
    print("| way | eta | bits per byte at 4,096 to 8,192 | damage |\n|---|---|---|---|")
    for eta in LEVEL_RATES:
        levels = tuple(replace(level, eta=eta) for level in byte_reader.LEVELS)
        bits, damage = trial(model, levels, texts, ids)
        print(f"| levels 64/256/1024 | {eta} | {bits:.3f} | {damage:+.3f} |", flush=True)
    for eta in ONE_RATES:
        bits, damage = trial(model, tuple(replace(level, eta=eta) for level in byte_reader.ONE_RATE), texts, ids)
        print(f"| one rate, 64 | {eta} | {bits:.3f} | {damage:+.3f} |", flush=True)
    for eta in ALL_WEIGHTS_RATES:
        nll, _ = dynamic_evaluation(model, ids, eta=eta)
        print(f"| all weights | {eta} | {float(nll[:, 4096:].mean()) / math.log(2):.3f} | |", flush=True)


if __name__ == "__main__":
    main()
