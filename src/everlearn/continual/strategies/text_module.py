"""A pretrained encoder of texts that passes gradients to its matrices, for strategies that move it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from everlearn.models.hub import load_pretrained


class TextModule(nn.Module):
    """Map records to features as `HFEncoder` with mean pooling does, in one padded batch and differentiably.

    Args:
        name_or_path: a folder that `save_pretrained` wrote, or a name on the hub.
        read: records [B, ...] -> their B texts, such as the texts at row numbers.
        layers: hidden layers, as indices of `hidden_states`.
        max_length: tokens of a text that are read.
    Raises:
        ValueError: no model there.
    """

    def __init__(
        self,
        name_or_path: str | Path,
        read: Callable[[Tensor], list[str]],
        *,
        layers: Sequence[int] = (-2, -1),
        max_length: int = 128,
    ) -> None:
        from transformers import AutoModel

        super().__init__()
        model, self.tokenizer = load_pretrained(name_or_path, AutoModel, "encoder")
        config: Any = model.config
        # no dropout: what a record becomes must not depend on when it is asked
        self.model: Any = model.eval()
        self.read, self.layers, self.max_length = read, tuple(layers), max_length
        self.dim = config.hidden_size * len(self.layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, dim], each layer's part of norm sqrt(hidden_size)."""
        encoded = self.tokenizer(
            self.read(x), truncation=True, max_length=self.max_length, padding=True, return_tensors="pt"
        )
        hidden = self.model(**encoded, output_hidden_states=True).hidden_states
        mask = encoded["attention_mask"].unsqueeze(-1).to(hidden[0].dtype)
        pooled = [(hidden[layer] * mask).sum(1) / mask.sum(1) for layer in self.layers]
        return torch.cat([nn.functional.normalize(p, dim=-1) * p.shape[-1] ** 0.5 for p in pooled], -1)


def last_mlps(module: nn.Module, count: int) -> list[list[str]]:
    """Return the names of the MLP matrices of the last `count` blocks, one list for each, the last block first.

    Args:
        module: anything that holds blocks named "layer.N" or "layers.N" as Hugging Face's encoders do.
        count: blocks, >= 1.
    Raises:
        ValueError: fewer blocks with MLPs than asked for.
    """
    pattern = re.compile(r"layers?\.(\d+)\.(?:.*\.)?(intermediate|output|mlp|ffn|fc|lin\d)\b")
    blocks: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters():
        found = pattern.search(name)
        if found and parameter.ndim == 2 and "attention" not in name:
            blocks.setdefault(int(found[1]), []).append(name)
    if not 1 <= count <= len(blocks):
        raise ValueError(
            f"{type(module).__name__} has {len(blocks)} blocks whose MLPs are known by name, and {count} were asked "
            "for; name the matrices yourself"
        )
    return [blocks[number] for number in sorted(blocks, reverse=True)[:count]]
