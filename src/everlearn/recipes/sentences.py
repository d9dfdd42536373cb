"""A model of a small world of sentences, and what a rare sentence does to it."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from everlearn.evals.tasks.sentences import SCENES, common, corpus, rare
from everlearn.evals.writes import Writes, watch
from everlearn.levels import Level
from everlearn.models import Decoder, preset
from everlearn.train import TrainConfig, train

LINES, BEFORE = 2_000, 12  # lines that are trained on, and that are read before the sentence
TRAINING = TrainConfig(steps=200, batch_size=8, length=128, lr=4e-3, adamw_lr=8e-3, warmup=20)


def model(name: str, seed: int) -> Decoder:
    """Return an untrained model of a preset with one level that steps at the end of every sentence."""
    torch.manual_seed(seed)
    sizes = {"dim": 64, "num_layers": 2, "num_heads": 2, "hidden_dim": 128}
    return Decoder(preset(name, levels=(Level("fast", 16, eta=0.3),), chunk_size=16, **sizes))


def surprise(name: str, seed: int, training: TrainConfig = TRAINING) -> dict[str, Any]:
    """Train on what is common, then read a common or a rare sentence of the same length, both new to the stream.

    Args:
        name: of the preset.
        seed: of the weights and of the lines.
        training: see `TrainConfig`.
    Returns:
        "trained" and "untrained" (the control) -> "common" and "rare" -> the means of `evals.writes.Writes` over four
        common and 36 rare sentences; "pair" -> the same of "the sky is blue with white clouds" and "the sky is gold
        with black clouds".
    """
    generator = torch.Generator().manual_seed(seed)
    net = model(name, seed)
    before = net.encode(corpus(BEFORE, generator))
    text = net.encode(corpus(LINES, generator))
    untrained = _both(net, before)
    train(net, text, training)
    pair = {"common": common()[0], "rare": rare(0)[-1]}
    return {
        "untrained": untrained,
        "trained": _both(net, before),
        "pair": {kind: {"text": said, **vars(watch(net, before, net.encode(said)))} for kind, said in pair.items()},
    }


def _both(net: Decoder, before: torch.Tensor) -> dict[str, dict[str, float]]:
    """Watch every common and every rare sentence; return the means."""
    said = {"common": common(), "rare": [line for thing in range(len(SCENES)) for line in rare(thing)]}
    return {kind: _mean([watch(net, before, net.encode(line)) for line in lines]) for kind, lines in said.items()}


def _mean(found: list[Writes]) -> dict[str, float]:
    """Return the mean of every field."""
    return {field: statistics.mean(vars(one)[field] for one in found) for field in vars(found[0])}
