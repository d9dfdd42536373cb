"""Another implementation beside ours, where it is installed: one layer, forward and backward."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from everlearn.evals.speed.rounds import Ratio, interleave
from everlearn.evals.speed.subjects import Sizes, subject
from everlearn.layers import TitansMemory
from everlearn.models import Decoder

PEER = "titans_pytorch"  # the module of the distribution titans-pytorch
CHUNK = 64
EXPANSION = 4  # of the MLP that is a memory there, in head sizes


@dataclass(frozen=True)
class Layers:
    """Our layers beside `NeuralMemory`, whose weights advance every 64 tokens.

    Args:
        version: of titans-pytorch.
        rounds: how often each was timed.
        ratios: memory of the other layer, "MLP" as it is built there or "matrix" -> our layer -> how many times the
            other layer's time it takes.
    """

    version: str
    rounds: int
    ratios: dict[str, dict[str, Ratio]]


def installed() -> bool:
    """Tell whether titans-pytorch can be imported."""
    return importlib.util.find_spec(PEER) is not None


def beside_titans_pytorch(
    presets: Sequence[str], sizes: Sizes, rounds: int, device: torch.device, module: str = PEER
) -> Layers:
    """Time layers of ours beside layers of titans-pytorch.

    Its layers have as many heads, and `chunk_size` and `batch_size` are both 64: gradients are taken at the weights
    where a chunk of 64 tokens began, and the weights advance with each. Two of ours do the same, one with the
    architecture of each of theirs; the mixers of presets are as the presets have them.

    Args:
        presets: names.
        sizes: see `Sizes`.
        rounds: see `interleave`.
        device: on which they run.
        module: the module that holds `NeuralMemory`.
    """
    peer = importlib.import_module(module)
    head_dim = sizes.dim // sizes.num_heads
    torch.manual_seed(0)
    same = {"chunk_size": CHUNK, "batch_size": CHUNK, "heads": sizes.num_heads, "dim_head": head_dim}
    theirs = {
        "MLP": peer.NeuralMemory(sizes.dim, **same),
        "matrix": peer.NeuralMemory(sizes.dim, **same, default_model_kwargs={"depth": 1}),
    }
    ours = {f"mixer of {name}": mixer(subject(name, sizes, device)) for name in presets}
    ours |= {
        "TitansMemory, MLP, chunks of 64": TitansMemory(
            sizes.dim, sizes.num_heads, chunk_size=CHUNK, depth=2, hidden_dim=EXPANSION * head_dim
        ),
        "TitansMemory, matrix, chunks of 64": TitansMemory(sizes.dim, sizes.num_heads, chunk_size=CHUNK),
    }
    layers: dict[str, nn.Module] = {**{f"their {kind}": layer for kind, layer in theirs.items()}, **ours}
    runs = {name: mixer_step(layer.to(device), sizes, device) for name, layer in layers.items()}
    seconds = interleave(runs, rounds, device)
    version = importlib.metadata.version(PEER.replace("_", "-")) if module == PEER else "0"
    ratios = {kind: {name: Ratio.of(seconds[name], seconds[f"their {kind}"]) for name in ours} for kind in theirs}
    return Layers(version, rounds, ratios)


def mixer(model: Decoder) -> nn.Module:
    """Return the mixer of a model's first block."""
    found: Any = model.blocks[0].mixer
    return found


def mixer_step(layer: nn.Module, sizes: Sizes, device: torch.device) -> Callable[[], None]:
    """Return the forward and the backward pass of a layer that returns its output first."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(sizes.rows, sizes.length, sizes.dim, generator=generator).to(device).requires_grad_()

    def run() -> None:
        layer(x)[0].sum().backward()
        layer.zero_grad(set_to_none=True)
        x.grad = None

    return run
