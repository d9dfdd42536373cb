"""The small byte-level model of the demo: what it is, how it is trained, and how it learns while it reads.

The rates of every way of learning were chosen on validation files (`demo.corpus.validation_files`) with the same
number of trials each, by `python benchmarks/tune_reading.py`.
"""

from __future__ import annotations

from everlearn.levels import Level
from everlearn.models import DecoderConfig, preset
from everlearn.train import TrainConfig

TRAIN_BYTES = 3_000_000
# fast forgets at the end of each document; mid and slow persist, and move a fourth and a sixteenth as often
LEVELS = (
    Level("fast", 64, eta=0.3, reset="document"),
    Level("mid", 256, eta=0.3),
    Level("slow", 1024, eta=0.3),
)
# the control: the same weights, all at one pace, with the rate that gives the same gain on validation files
ONE_RATE = tuple(Level(level.name, 64, eta=0.1) for level in LEVELS)
ALL_WEIGHTS_ETA = 0.06


def model() -> DecoderConfig:
    """Return a delta-rule decoder of about 200,000 parameters with three levels."""
    return preset("delta_net", dim=64, num_layers=2, num_heads=2, hidden_dim=128, levels=LEVELS, chunk_size=64)


def training(seed: int = 0, quick: bool = False) -> TrainConfig:
    """Return 600 steps of 2,048 bytes: about a minute on one core; a sixth of it when quick."""
    return TrainConfig(
        steps=100 if quick else 600, batch_size=8, length=256, lr=8e-3, adamw_lr=1e-2, warmup=30, seed=seed
    )
