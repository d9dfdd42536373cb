"""One reading protocol for every way of learning: score a chunk with a fixed context, then learn from it.

A model that carries keys and values and one that computes its context again cannot be compared by what they see unless
both see the same: here every target has the tokens of its own chunk before it and a fixed number of earlier ones. The
context is computed again for every chunk, which any causal language model can do, whatever has changed its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from everlearn.learn.chunk import token_nll

Logits = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Window:
    """What a target is predicted from, in tokens.

    Args:
        size: inputs of one forward pass; it reaches `size - chunk_size` tokens back behind the chunk.
        chunk_size: tokens that are scored together, and then learned from together.
    Raises:
        ValueError: a chunk below 1 token, or larger than the window.
    """

    size: int = 256
    chunk_size: int = 128

    def __post_init__(self) -> None:
        if not 1 <= self.chunk_size <= self.size:
            raise ValueError(
                f"chunk_size {self.chunk_size} does not fit in a window of {self.size} tokens; give 1 to {self.size}"
            )

    def spans(self, length: int) -> Iterator[tuple[int, int, int]]:
        """Yield (first input, first input of the chunk, end of the inputs) for a text of `length` tokens."""
        for start in range(0, length - 1, self.chunk_size):
            end = min(start + self.chunk_size, length - 1)
            yield max(0, start + self.chunk_size - self.size), start, end


def hf_logits(model: nn.Module, ids: Tensor) -> Tensor:
    """Return the logits of a Hugging Face causal language model, [B, T, V]."""
    return model(input_ids=ids, use_cache=False).logits


def score(logits: Logits, ids: Tensor, window: Window, *, rows: int = 16) -> Tensor:
    """Score a text without learning.

    Args:
        logits: ids [B, T] -> logits [B, T, V], causal.
        ids: [T], T >= 2.
        window: what each target sees.
        rows: windows of equal length that are computed together; changes nothing but rounding.
    Returns:
        nll: of every token but the first, in nats, [T - 1] float64.
    """
    spans = list(window.spans(len(_check(ids))))
    groups: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    for first, start, end in spans:
        groups.setdefault((end - first, end - start), []).append((first, start, end))
    nll = torch.empty(len(ids) - 1, dtype=torch.float64)
    with torch.no_grad():
        for (_, scored), members in groups.items():
            for at in range(0, len(members), rows):
                part = members[at : at + rows]
                inputs = torch.stack([ids[first:end] for first, _, end in part])
                targets = torch.stack([ids[start + 1 : end + 1] for _, start, end in part])
                losses = token_nll(logits(inputs)[:, -scored:], targets)
                for (_, start, end), loss in zip(part, losses, strict=True):
                    nll[start:end] = loss.double()
    return nll


def learn(logits: Logits, ids: Tensor, window: Window, step: Callable[[Tensor], None]) -> Tensor:
    """Read a text chunk by chunk: score it, then hand its mean loss to `step`, which may change the weights.

    Args:
        logits: ids [B, T] -> logits [B, T, V], causal; after a step it uses the changed weights.
        ids: [T], T >= 2.
        window: what each target sees, and how many tokens share one gradient.
        step: called with the mean loss of the chunk in nats, a scalar with its graph.
    Returns:
        nll: of every token but the first, in nats, [T - 1] float64, taken before anything was learned from it.
    """
    nll = torch.empty(len(_check(ids)) - 1, dtype=torch.float64)
    for first, start, end in window.spans(len(ids)):
        with torch.enable_grad():
            scored = logits(ids[None, first:end])[:, start - first :]
            losses = token_nll(scored, ids[None, start + 1 : end + 1])[0]
        nll[start:end] = losses.detach().double()
        step(losses.mean())
    return nll


def _check(ids: Tensor) -> Tensor:
    """Refuse what holds no target."""
    if ids.ndim != 1 or len(ids) < 2:
        raise ValueError(
            f"the text has the shape {list(ids.shape)}; one row of at least 2 tokens is needed; give more text"
        )
    return ids
