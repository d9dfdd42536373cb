"""A small byte language model that is trained on three domains, one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from everlearn.demo.base import join
from everlearn.demo.corpus import standard_library
from everlearn.learn.chunk import token_nll
from everlearn.models.text import encode
from everlearn.optim import M3, OWM, capture
from everlearn.optim.around import Around
from everlearn.recipes.stand_in import load_book

STEPS, BATCH, LENGTH, WARMUP = 100, 8, 128, 10
REST_LR = 4e-3
PROBES = 24
REPLAY_BYTES = 65_536
Optimizers = list[torch.optim.Optimizer]
Data = dict[str, dict[str, Tensor]]  # domain -> part -> bytes


def load_domains(folder: Path) -> Data:
    """Return fiction, Python and science as bytes, in this order: 90 % to train on, then 5 % and 5 % to measure."""
    texts = {
        "fiction": load_book(folder, "melville_moby-dick").encode(),
        "Python": join(standard_library(1_200_000)[0]),
        "science": load_book(folder, "darwin_origin-of-species").encode(),
    }
    parts: Data = {}
    for name, text in texts.items():
        ids, cuts = encode(text), [0, int(0.9 * len(text)), int(0.95 * len(text)), len(text)]
        spans = zip(("train", "validation", "test"), cuts[:-1], cuts[1:], strict=True)
        parts[name] = {part: ids[first:last] for part, first, last in spans}
    return parts


class Block(nn.Module):
    """Attention and an MLP, each after a norm; every matrix is an `nn.Linear` that is called."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.RMSNorm(dim) for _ in range(2))
        self.qkv, self.out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.up, self.down = nn.Linear(dim, 4 * dim, bias=False), nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, T, dim] to the same."""
        batch, length, dim = x.shape
        q, k, v = self.qkv(self.norms[0](x)).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, dim))
        return x + self.down(nn.functional.gelu(self.up(self.norms[1](x))))


class ByteModel(nn.Module):
    """A Transformer over bytes with learned positions, 0.29 million parameters."""

    def __init__(self, dim: int = 96, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(256, dim), nn.Embedding(LENGTH, dim)
        for table in (self.embedding, self.position):
            nn.init.normal_(table.weight, std=0.1)
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(layers)))
        self.norm, self.head = nn.RMSNorm(dim), nn.Linear(dim, 256, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits [B, T, 256]."""
        x = self.embedding(ids) + self.position(torch.arange(ids.shape[1], device=ids.device))
        return self.head(self.norm(self.blocks(x)))


def build(seed: int) -> ByteModel:
    """Return an untrained model."""
    torch.manual_seed(seed)
    return ByteModel()


def split(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Return the matrices of the blocks, and everything else."""
    named = list(model.named_parameters())
    inside = {name for name, p in named if p.ndim == 2 and name.startswith("blocks.") and min(p.shape) > 8}
    return [p for name, p in named if name in inside], [p for name, p in named if name not in inside]


def rest(parameters: list[Tensor], lr: float = REST_LR) -> torch.optim.Optimizer:
    """Return AdamW for embeddings, norms and the head."""
    return torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.95), weight_decay=0.0)


def adamw(model: nn.Module, lr: float) -> Optimizers:
    """Return AdamW for everything."""
    return [rest(list(model.parameters()), lr)]


def muon(model: nn.Module, lr: float, *, beta: float = 0.95) -> Optimizers:
    """Return Muon for the blocks' matrices."""
    matrices, others = split(model)
    first = torch.optim.Muon(matrices, lr=lr, weight_decay=0.0, momentum=beta, adjust_lr_fn="match_rms_adamw")
    return [first, rest(others)]


def slow_m3(model: nn.Module, lr: float) -> Optimizers:
    """Return M3 whose slow memory weighs as much as its fast one."""
    matrices, others = split(model)
    return [M3(matrices, lr, alpha=1.0, slow_period=50), rest(others)]


def protected(model: nn.Module, lr: float, *, rank: int | None = None) -> Optimizers:
    """Return OWM for the blocks' matrices."""
    matrices, others = split(model)
    return [OWM(matrices, lr, inputs=capture(model), rank=rank), rest(others)]


def protected_all(model: nn.Module, lr: float) -> Optimizers:
    """Return OWM for all matrices, those of the embeddings and the head too."""
    both = list(model.parameters())
    owm = OWM([p for p in both if p.ndim == 2], lr, inputs=capture(model))
    return [owm, rest([p for p in both if p.ndim != 2])]


@dataclass(frozen=True)
class Method:
    """A way to learn a stream, and the three settings that it is tried with.

    Args:
        make: the optimizers of a model at a rate.
        rates: of learning, or of the penalty where there is one.
        replay: half of each batch comes from a sample of the past.
        penalty_lr: the rate beside a penalty of elastic weight consolidation; 0 for none.
        joint: all domains at once, in as many steps.
    """

    make: Callable[[nn.Module, float], Optimizers]
    rates: tuple[float, ...]
    replay: bool = False
    penalty_lr: float = 0.0
    joint: bool = False


METHODS = {
    "AdamW": Method(adamw, (1e-3, 2e-3, 4e-3)),
    "Muon": Method(muon, (4e-3, 8e-3, 1.6e-2)),
    "Muon, beta .99": Method(partial(muon, beta=0.99), (4e-3, 8e-3, 1.6e-2)),
    "M3, alpha 1, f 50": Method(slow_m3, (4e-3, 8e-3, 1.6e-2)),
    "OWM": Method(protected, (4.0, 16.0, 64.0)),
    "OWM, rank 32": Method(partial(protected, rank=32), (4.0, 16.0, 64.0)),
    "OWM, embeddings and head too": Method(protected_all, (4.0, 16.0, 64.0)),
    "EWC around AdamW": Method(adamw, (1.0, 10.0, 100.0), penalty_lr=2e-3),
    "replay, Muon": Method(muon, (4e-3, 8e-3, 1.6e-2), replay=True),
    "all at once, Muon": Method(muon, (4e-3, 8e-3, 1.6e-2), joint=True),
}


class Penalty:
    """Elastic weight consolidation (Kirkpatrick et al. 2017): a diagonal Fisher for each finished domain."""

    def __init__(self, model: nn.Module, weight: float) -> None:
        self.parameters, self.weight = list(model.parameters()), weight
        self.held: list[tuple[list[Tensor], list[Tensor]]] = []

    def add(self, model: nn.Module, windows: Iterable[Tensor]) -> None:
        """Hold the weights where their squared gradients on these windows are large."""
        fisher = [torch.zeros_like(p) for p in self.parameters]
        count = 0
        for window in windows:
            grads = torch.autograd.grad(loss_of(model, window[None]), self.parameters)
            fisher = [total + grad.square() for total, grad in zip(fisher, grads, strict=True)]
            count += 1
        fisher = [total * LENGTH / count for total in fisher]
        self.held.append((fisher, [p.detach().clone() for p in self.parameters]))

    def value(self) -> Tensor:
        """Return weight / 2 times the Fisher distances to all that is held."""
        total = torch.zeros(())
        for fisher, places in self.held:
            for f, place, p in zip(fisher, places, self.parameters, strict=True):
                total = total + (f * (p - place).square()).sum()
        return self.weight / 2 * total


def loss_of(model: nn.Module, window: Tensor) -> Tensor:
    """Return the mean loss of windows [B, length + 1] in nats per byte."""
    return token_nll(model(window[:, :-1]), window[:, 1:]).mean()


def draw(ids: Tensor, count: int, draws: torch.Generator) -> Tensor:
    """Return windows of a text, [count, LENGTH + 1]."""
    starts = torch.randint(len(ids) - LENGTH, (count, 1), generator=draws)
    return ids[starts + torch.arange(LENGTH + 1)]


@torch.no_grad()
def bits(model: nn.Module, ids: Tensor) -> float:
    """Return bits per byte on windows spread over a text."""
    starts = torch.linspace(0, len(ids) - LENGTH - 1, PROBES).long()[:, None]
    return loss_of(model, ids[starts + torch.arange(LENGTH + 1)]).item() / math.log(2)


def rate(step: int) -> float:
    """Return the share of the peak rate within a domain: warm-up, then down to a tenth."""
    return min((step + 1) / WARMUP, 1.0) * (1 - 0.9 * step / STEPS)


def learn(method: Method, setting: float, data: Data, seed: int, *, part: str = "test") -> dict[str, Any]:
    """Train a model on the domains in turn.

    Args:
        method: how.
        setting: one of its rates.
        data: of `load_domains`.
        seed: of the start and the order.
        part: of each text that measures.
    Returns:
        "after": bits per byte on every domain after each, and "optimizer_bytes".
    """
    model, draws = build(seed), torch.Generator().manual_seed(seed)
    optimizers = method.make(model, method.penalty_lr or setting)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    peaks = [group["lr"] for group in groups]
    penalty, past, after = Penalty(model, setting if method.penalty_lr else 0.0), [], []
    names = list(data)
    for number, name in enumerate(names):
        for step in range(STEPS):
            for group, peak in zip(groups, peaks, strict=True):
                group["lr"] = peak * rate(step)
            window = batch_of(method, data, names, number, past, draws)
            loss = loss_of(model, window) + (penalty.value() if penalty.held else 0.0)
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
        if method.penalty_lr and number + 1 < len(names):
            penalty.add(model, draw(data[name]["train"], 64, draws))
        past.append(draw(data[name]["train"], REPLAY_BYTES // (LENGTH + 1), draws))
        after.append({other: bits(model, data[other][part]) for other in names})
    return {
        "after": after,
        "optimizer_bytes": kept_bytes(optimizers),
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def batch_of(
    method: Method, data: Data, names: Sequence[str], number: int, past: Sequence[Tensor], draws: torch.Generator
) -> Tensor:
    """Return the windows of a step: of the domain, of all domains, or half of them from a sample of the past."""
    if method.joint:
        which = torch.randint(len(names), (BATCH,), generator=draws).tolist()
        return torch.cat([draw(data[names[place]]["train"], 1, draws) for place in which])
    new = draw(data[names[number]]["train"], BATCH, draws)
    if not (method.replay and past):
        return new
    # the past shares one budget of bytes
    share = REPLAY_BYTES // (LENGTH + 1) // len(past)
    held = torch.cat([windows[:share] for windows in past])
    old = held[torch.randint(len(held), (BATCH // 2,), generator=draws)]
    return torch.cat([new[: BATCH - BATCH // 2], old])


def kept_bytes(optimizers: Optimizers) -> int:
    """Return the bytes that optimizers keep between steps."""
    memories = (optimizer.memories() if isinstance(optimizer, Around) else None for optimizer in optimizers)
    return sum(
        sum(part.state_bytes for part, _ in known)
        if known
        else sum(v.nbytes for slots in optimizer.state.values() for v in slots.values() if isinstance(v, Tensor))
        for optimizer, known in zip(optimizers, memories, strict=True)
    )


def newest_and_old_sum(run: dict[str, Any]) -> float:
    """Return the loss on the newest domain plus the mean over the old ones, by which a setting is chosen."""
    *old, newest = run["after"][-1].values()
    return newest + sum(old) / len(old)
