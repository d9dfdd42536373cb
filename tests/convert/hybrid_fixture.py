"""Models of every kind with memories in their places, and what reads a text with them."""

from __future__ import annotations

import itertools
import math

import torch

from everlearn.convert import (
    Continuum,
    Delta,
    replace_blocks,
    stack_levels,
)
from everlearn.learn.stream import read
from everlearn.levels import Level
from tests.convert.families_fixture import tiny

C = 8
LEVELS = (
    Level("fast", C, eta=0.5, anchor_decay=0.02, reset="document"),
    Level("slow", mean_of="fast", decay=0.9),
    Level("still", math.inf),
)
LEARNS = Continuum(levels=LEVELS)


def hybrid(family="llama", *, attention=None, mlp=None, **options):
    torch.manual_seed(4)
    drawn = family not in ("llama", "qwen3", "mistral", "phi3", "olmo", "stablelm")
    options = {"chunk_size": C, "from_projections": not drawn, **options}
    return replace_blocks(tiny(family), attention=attention, mlp=mlp, **options)


EVERY = {"attention": {1: Delta()}, "mlp": {0: Delta(), 1: LEARNS}}


def learned(model, ids, cuts=(), mask=None):
    """Read pieces of a text and learn; return the losses of all tokens and the state."""
    state, losses = model.initial_state(len(ids)), []
    edges = [0, *cuts, ids.shape[1]]
    for start, stop in itertools.pairwise(edges):
        part = None if mask is None else mask[:, start:stop]
        report, state = read(model, ids[:, start:stop], state, part, chunk_size=C)
        losses.append(report.nll)
    return torch.cat(losses, 1), state


def stacked(**places):
    return stack_levels(hybrid(**places), levels=LEVELS[:2], chunk_size=C)


# every kind of learning hybrid
MODELS = {
    "in place": lambda: hybrid(**EVERY),
    "stacked": lambda: stacked(attention={0: Delta()}),
    "with a window": lambda: stacked(attention={0: Delta()}, window=12),
    "both": lambda: stacked(attention={0: Delta()}, mlp={1: LEARNS}),
    "no attention left": lambda: stacked(attention={0: Delta(), 1: Delta()}, mlp={0: Delta()}),
}
