"""How surprised a model is by a text, and how much it writes because of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from everlearn.learn.chunk import learn_chunk, token_nll
from everlearn.memory.state import ModelState
from everlearn.models import Decoder


@dataclass(frozen=True)
class Writes:
    """What one text did to a model that had read another one before.

    Args:
        bits: mean bits per token of the text, each predicted from everything before it.
        memory: how far the mixers' memories moved, summed over the tokens: Frobenius norm over all layers. What a layer
            writes at the end of a chunk counts there.
        surprise: norm of the gradient that the levels collected over the text, over all levels and before any clip; 0
            without levels.
        levels: how far the levels' weights moved in the one step that the text makes: Frobenius norm.
    """

    bits: float
    memory: float
    surprise: float
    levels: float


def watch(model: Decoder, before: Tensor, text: Tensor) -> Writes:
    """Read one text after another and say what the second did; the model itself is not changed.

    Args:
        model: its levels step once if their periods are no longer than the text.
        before: tokens that were read, [T] with T >= 2; nothing is learned from them.
        text: tokens that are watched, [N] with N >= 1.
    Raises:
        ValueError: less than two tokens before, or no text.
    """
    if len(before) < 2 or len(text) < 1:
        raise ValueError(
            f"{len(before)} tokens before a text of {len(text)} are too few; give at least 2 before and 1 of text"
        )
    with torch.no_grad():
        _, start = model(before[None, :-1])
        logits, state = model(before[None, -1:], start)
        nll, moved = [], 0.0
        for token in text:
            nll.append(token_nll(logits[:, -1:], token[None, None]).item())
            logits, after = model(token[None, None], state)
            moved += distance(state, after)
            state = after
    report, learned = learn_chunk(model, torch.cat([before[-1:], text])[None], start)
    steps = [update.surprise.item() for levels in report.updates.values() for update in levels.values()]
    names = set(model.memories())
    return Writes(
        bits=sum(nll) / len(nll) / math.log(2),
        memory=moved,
        surprise=math.sqrt(sum(step**2 for step in steps)),
        levels=distance(start_of(model, start, names), learned, names),
    )


def start_of(model: Decoder, state: ModelState, layers: set[str]) -> ModelState:
    """Return a state in which the named layers hold what they start from, where they hold nothing yet."""
    fresh = model.initial_state(state.batch_size)
    memory = {name: state.memory.get(name, fresh.memory[name]) for name in layers if name in fresh.memory}
    return ModelState({**state.memory, **memory}, state.context, state.tokens_seen, state.segment_len)


def distance(a: ModelState, b: ModelState, layers: set[str] | None = None) -> float:
    """Return the Frobenius norm of the difference of two states' memories, what is only in one left out.

    Args:
        a, b: of the same model.
        layers: whose weights are compared, without what they have collected; None takes all that mixers remember.
    """
    total = 0.0
    for name, tensors in b.memory.items():
        for part, new in tensors.items():
            old = a.memory.get(name, {}).get(part)
            if old is None or not new.is_floating_point():
                continue
            if layers is None or (name in layers and not part.endswith(".grad") and ".slot." not in part):
                total += float((new - old).detach().double().square().sum())
    return math.sqrt(total)
