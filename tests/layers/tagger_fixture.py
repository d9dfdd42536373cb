"""A small model around one mixer, and in-context recall: what a memory layer must learn in seconds."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from everlearn.layers import SwiGLU


class Tagger(nn.Module):
    """One block between an embedding and a read-out, the smallest model that can be asked for a language."""

    def __init__(self, mixer: nn.Module, vocabulary: int, outputs: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(vocabulary, 64), nn.Linear(64, outputs)
        self.mixer, self.mlp = mixer, SwiGLU(64, 128)
        self.norms = nn.ModuleList(nn.RMSNorm(64) for _ in range(3))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        x = x + self.mixer(self.norms[0](x))[0]
        x = x + self.mlp(self.norms[1](x))
        return self.head(self.norms[2](x))


def recall(rows: int, length: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Key, value, key, value; 16 keys with values drawn per row; counted where a key comes again."""
    keys = torch.randint(0, 16, (rows, length // 2), generator=generator)
    values = torch.randint(0, 16, (rows, 16), generator=generator).gather(1, keys)
    again = torch.stack([(keys[:, :i] == keys[:, i : i + 1]).any(1) for i in range(length // 2)], 1)
    nothing = torch.zeros_like(values)
    pairs = ((keys, values + 16), (values, nothing), (again, nothing.bool()))
    tokens, targets, counted = (torch.stack(pair, 2).flatten(1) for pair in pairs)
    return tokens, targets, counted


def train(model: Tagger, task, length: int, *, rows: int, steps: int, lr: float, seed: int) -> torch.Generator:
    """Train with warm-up and a cosine; return the generator, so that what follows has not been seen."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95))
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 50) * (0.55 + 0.45 * math.cos(math.pi * step / steps))
        tokens, targets, counted = task(rows, length, generator)
        loss = F.cross_entropy(model(tokens)[counted], targets[counted])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return generator


def accuracy(model: Tagger, task, length: int, generator: torch.Generator, start: int = 0) -> float:
    """Measure 64 new rows, from position `start` on."""
    tokens, targets, counted = task(64, length, generator)
    with torch.no_grad():
        right = model(tokens).argmax(-1) == targets
    return right[:, start:][counted[:, start:]].double().mean().item()
