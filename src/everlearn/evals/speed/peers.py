"""Another implementation beside ours, where it is installed: one layer, forward and backward."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from everlearn.evals.speed.rounds import Ratio, interleave
from everlearn.evals.speed.subjects import Sizes, subject
from everlearn.models import Decoder

PEER = "titans_pytorch"  # the module of the distribution titans-pytorch
CHUNK = 64


@dataclass(frozen=True)
class Layers:
    """One mixer of each preset beside one `NeuralMemory` whose weights advance every 64 tokens.

    Args:
        version: of titans-pytorch.
        ratios: preset -> how many times the other layer's time its mixer takes.
    """

    version: str
    ratios: dict[str, Ratio]


def installed() -> bool:
    """Tell whether titans-pytorch can be imported."""
    return importlib.util.find_spec(PEER) is not None


def beside_titans_pytorch(
    presets: Sequence[str], sizes: Sizes, rounds: int, device: torch.device, module: str = PEER
) -> Layers:
    """Time one mixer of each preset beside one layer of titans-pytorch.

    Its memory is an MLP, as it is built there, with as many heads; `chunk_size` and `batch_size` are both 64, so that
    weights advance as often as ours can.

    Args:
        presets: names.
        sizes: see `Sizes`.
        rounds: see `interleave`.
        device: on which they run.
        module: the module that holds `NeuralMemory`.
    """
    peer = importlib.import_module(module)
    torch.manual_seed(0)
    other = peer.NeuralMemory(
        dim=sizes.dim, chunk_size=CHUNK, batch_size=CHUNK, heads=sizes.num_heads, dim_head=sizes.dim // sizes.num_heads
    ).to(device)
    layers: dict[str, nn.Module] = {name: mixer(subject(name, sizes, device)) for name in presets}
    runs = {name: mixer_step(layer, sizes, device) for name, layer in {**layers, module: other}.items()}
    seconds = interleave(runs, rounds, device)
    version = importlib.metadata.version(PEER.replace("_", "-")) if module == PEER else "0"
    return Layers(version, {name: Ratio.of(seconds[name], seconds[module]) for name in presets})


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
