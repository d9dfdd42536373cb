"""One step of one level: what it has collected moves its weights in the rows that are due.  [NL eq. 71]"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from everlearn.levels.clock import Level
from everlearn.memory.state import Tensors, row_chooser
from everlearn.rules import Rule, gd
from everlearn.rules.clip import clip_scale


@dataclass(frozen=True)
class Update:
    """What one level did in one write.

    Args:
        rows: which rows the level changed, [B] bool.
        surprise: Frobenius norm of each row's gradient over all tensors of the level, before the clip, [B]; 0 where
            nothing was due, and for a running mean, which follows no gradient.
    """

    rows: Tensor
    surprise: Tensor


def step_level(
    memory: Tensors,
    level: Level,
    starts: Mapping[str, Tensor],
    due: Tensor,
    *,
    rule: Rule,
    max_norm: float,
    reduce: str,
    share: Tensor | None = None,
) -> Tensor:
    """Change a level's weights, collected gradients and slots in place of the old ones.  [NL eq. 71]

        theta <- theta - eta clip_1(mean gradient of the tokens of its last period)

    Args:
        memory: its entries "level.part", "level.part.grad", "level.part.slot.*" are replaced; tensors are not changed.
        level: whose step it is; "level.tokens" says over how many tokens each row has collected.
        starts: part -> what `anchor_decay` pulls to, [out, in] or [B, out, in].
        due: [B] bool; the other rows stay bit-identical.
        rule: takes the step.
        max_norm: bound on the gradient of one row and tensor.
        reduce: "mean" or "sum" over the tokens of the period; a sum counts its tokens by itself.
        share: how much of the step each row takes, [B]; None for all of it. See `Level.share`.
    Returns:
        each row's surprise, [B]; 0 where nothing was due.
    """
    count = memory[f"{level.name}.tokens"].clamp_min(1)
    totals = {part: memory[f"{level.name}.{part}.grad"] for part in starts}
    # laid out anew where need be: the order of a sum, and so its last bit, goes by the layout
    norms = torch.stack([torch.linalg.vector_norm(total.flatten(1), dim=1) for total in totals.values()])
    each = 1 / count.to(norms.dtype) if reduce == "mean" else torch.ones_like(norms[0])
    norms = norms * each
    scales = clip_scale(norms, max_norm) * each
    choose = row_chooser(due)
    nothing = torch.zeros_like(norms[0, 0])
    for (part, start), scale in zip(starts.items(), scales, strict=True):
        name, total = f"{level.name}.{part}", totals[part]
        slots = {n.rpartition(".")[2]: t for n, t in memory.items() if n.startswith(f"{name}.slot.")}
        scale = scale.reshape(-1, 1, 1)
        # where eta multiplies the gradient and nothing else it takes the scale along, and the gradient is read once
        grad, eta = (total, level.eta * scale) if rule is gd else (total * scale, level.eta)
        weights, slots = rule(memory[name], grad, None, slots, eta=eta)
        weights = weights + level.anchor_decay * (start - weights) if level.anchor_decay else weights
        if share is not None and reduce == "mean":
            weights = torch.lerp(memory[name], weights, share.to(weights.dtype).reshape(-1, 1, 1))
        memory[name] = choose(weights, memory[name])
        memory[f"{name}.grad"] = choose(nothing.expand_as(total), total)
        for slot, value in slots.items():
            value = value.expand(len(due), *value.shape[1:])
            memory[f"{name}.slot.{slot}"] = choose(value, memory.get(f"{name}.slot.{slot}", torch.zeros_like(value)))
    return torch.where(due, norms.detach().double().square().sum(0).sqrt(), 0.0)
