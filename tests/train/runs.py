"""A run of a few thousand numbers on a text that is written here."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from everlearn.levels import Level
from everlearn.models import preset
from everlearn.train import RunConfig, TrainConfig

TEXTS = {
    "a": b"".join(b"the cat %d sat on the mat; the dog sat by it.\n" % i for i in range(60)),
    "b": b"".join(b"def f%d(x):\n    return x + %d\n" % (i, i) for i in range(60)),
}


def config(name: str = "delta_net", *, vocab: int = 256, training: dict | None = None, **changes) -> RunConfig:
    """Return a config of six steps that saves every second and measures every third."""
    sizes = {"dim": 16, "num_layers": 2, "num_heads": 1, "hidden_dim": 16, "chunk_size": 16}
    model = preset(name, levels=(Level("fast", 16),), vocab_size=vocab, **sizes)
    usual = {"steps": 6, "batch_size": 4, "length": 16, "lr": 8e-3, "adamw_lr": 1e-2, "warmup": 2}
    every = {"save_every": 2, "valid_every": 3, "log_every": 1}
    return RunConfig(model=model, training=TrainConfig(**{**usual, **(training or {})}), **{**every, **changes})


def steps(one: RunConfig, number: int) -> RunConfig:
    """Return the config with another number of steps."""
    return dataclasses.replace(one, training=dataclasses.replace(one.training, steps=number))


def weights(folder: Path) -> bytes:
    """Return the bytes of the finished model."""
    return (folder / "model.safetensors").read_bytes()
