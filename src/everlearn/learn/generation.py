"""Continue a prompt, token by token; nothing is learned."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from everlearn.learn.chunk import check_predictions
from everlearn.memory.state import ModelState
from everlearn.models.protocol import TextModel


def check_options(max_new_tokens: int, temperature: float) -> None:
    """Refuse a length that asks for no text, and a temperature that is none."""
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens {max_new_tokens} asks for no text; give a number >= 1")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature {temperature} is not a number >= 0; 0 takes the likeliest token")


def continue_text(
    model: TextModel, ids: Tensor, state: ModelState, *, max_new_tokens: int, temperature: float, seed: int
) -> str:
    """Return the text that follows tokens, without them.

    Args:
        model: such as a decoder or a stacked model.
        ids: [1, T], T >= 1.
        state: of one row; tokens that wait in it for their chunk come before these.
        max_new_tokens: how many to add at most.
        temperature: 0 takes the likeliest token, 1 samples from the model's distribution.
        seed: of the sampling.
    Raises:
        NotFiniteError: the model predicts NaN.
    """
    generator = torch.Generator().manual_seed(seed)
    waiting = state.context.get("open")
    if waiting is not None:
        ids = torch.cat([waiting["ids"][:, : int(waiting["count"][0])], ids], 1)
    new = []
    with torch.no_grad():
        for _ in range(max_new_tokens):
            logits, state = model(ids, state)
            check_predictions(logits[:, -1])
            ids = pick(logits[:, -1], temperature, generator)
            if int(ids) in model.stop_ids:
                break
            new.append(ids[0, 0])
    return model.decode(torch.stack(new)) if new else ""


def pick(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Choose the next token of each row, [B, 1]."""
    if temperature <= 0:
        return logits.argmax(-1, keepdim=True)
    shares = torch.softmax(logits / temperature, -1).cpu()
    return torch.multinomial(shares, 1, generator=generator).to(logits.device)
