"""Train a language model on a text: Muon for matrices, AdamW for the rest, one pass of random windows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from everlearn.learn.chunk import token_nll
from everlearn.optim import Muon


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a language model is trained.

    Args:
        steps: optimizer steps.
        batch_size: windows per step.
        length: tokens per window.
        lr: of Muon, for matrices, in units of a step with RMS like AdamW's.
        adamw_lr: of AdamW, for embeddings, norms, gates, convolutions and learned starts.
        warmup: steps of linear warm-up; afterwards the rate falls along a cosine to a tenth.
        clip: bound on the norm of the whole gradient.
        seed: of the order of the windows.
    """

    steps: int
    batch_size: int = 16
    length: int = 256
    lr: float = 2e-3
    adamw_lr: float = 4e-3
    warmup: int = 30
    clip: float = 1.0
    seed: int = 0


def decoder_logits(model: nn.Module, ids: Tensor) -> Tensor:
    """Return the logits of a `models.Decoder`, [B, T, V]."""
    logits, _ = model(ids)
    return logits


def train(
    model: nn.Module,
    data: Tensor,
    config: TrainConfig,
    on_step: Callable[[int, float], None] | None = None,
    *,
    logits: Callable[[nn.Module, Tensor], Tensor] = decoder_logits,
    blocks: str = "blocks.",
) -> list[float]:
    """Train a language model in place.

    Args:
        model: changed in place.
        data: the text as tokens, [N] with N > config.length.
        config: see `TrainConfig`.
        on_step: called with the number of steps done and the last loss in bits per token.
        logits: how the model is called, `(model, ids [B, T]) -> logits [B, T, V]`; the default fits a `Decoder`.
        blocks: how the names of the parameters inside its blocks begin; their matrices go to Muon.
    Returns:
        loss of every step in bits per token, before the step.
    Raises:
        ValueError: a text shorter than one window.
    """
    if len(data) <= config.length:
        raise ValueError(
            f"the text has {len(data)} tokens, one window needs {config.length + 1}; "
            f"give a longer text or set length below {len(data)}"
        )
    generator = torch.Generator().manual_seed(config.seed)
    both = optimizers(model, config, blocks)
    losses = []
    model.train()
    for step in range(config.steps):
        window = _windows(data, config, generator)
        loss = token_nll(logits(model, window[:, :-1]), window[:, 1:]).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        for optimizer in both:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * schedule(step, config)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item() / math.log(2))
        if on_step:
            on_step(step + 1, losses[-1])
    model.eval()
    return losses


def _windows(data: Tensor, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """Draw windows of a text, [batch_size, length + 1]."""
    starts = torch.randint(len(data) - config.length, (config.batch_size, 1), generator=generator)
    return data[starts + torch.arange(config.length + 1)]


def schedule(step: int, config: TrainConfig) -> float:
    """Return the share of the peak rate: linear warm-up, then a cosine to a tenth."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * done))


def optimizers(
    model: nn.Module,
    config: TrainConfig,
    blocks: str = "blocks.",
    *,
    of_matrices: Callable[[list[Tensor], float], torch.optim.Optimizer] | None = None,
) -> list[torch.optim.Optimizer]:
    """Give the blocks' matrices to Muon and everything else to AdamW; each group keeps its peak rate as "peak".

    Args:
        model: whose parameters are trained.
        config: its rates.
        blocks: how the names of the parameters inside the blocks begin.
        of_matrices: makes the optimizer of the matrices from them and a rate; None takes `muon`.
    """
    matrices: list[Tensor] = []
    rest: list[Tensor] = []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and name.startswith(blocks) and min(parameter.shape) > 8 else rest).append(
            parameter
        )
    first = (of_matrices or muon)(matrices, config.lr)
    second = torch.optim.AdamW(rest, lr=config.adamw_lr, betas=(0.9, 0.95), weight_decay=0.0)
    for optimizer in (first, second):
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return [first, second]


def muon(matrices: list[Tensor], lr: float) -> torch.optim.Optimizer:
    """Return torch's Muon, which orthogonalises in bfloat16."""
    return torch.optim.Muon(
        [{"params": matrices}], lr=lr, weight_decay=0.0, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )


def muon_in_float32(matrices: list[Tensor], lr: float) -> torch.optim.Optimizer:
    """Return the same rule in float32: a gradient that differs in its last bits makes a step that does, and no more."""
    return Muon([{"params": matrices}], lr)
