"""A conversation as the tokens of a model's own chat template, with each speaker's words kept apart."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

TEMPLATE = "template"  # the role of what stands around the speakers' words
Message = tuple[str, str]


def check_template(tokenizer: Any, name: str) -> None:
    """Refuse a tokenizer that does not say how a conversation is written.

    Args:
        tokenizer: of the model, or None.
        name: what to call the model in the error.
    Raises:
        ValueError: there is no chat template.
    """
    if tokenizer is None or not tokenizer.chat_template:
        raise ValueError(
            f"{name} has no chat template, so it was not trained to talk; "
            "use generate with it, or give an instruction-tuned model"
        )


def spans(tokenizer: Any, messages: Sequence[Message], *, answer: bool) -> list[Message]:
    """Return a conversation as (role, text) pairs that add up to what the template writes.

    The template sees a random word in place of every message, so that no message can imitate a part of it.

    Args:
        tokenizer: with a chat template.
        messages: (role, text), the roles as the template knows them: "user" and "assistant", perhaps "system".
        answer: end where the model is to speak next.
    Raises:
        ValueError: the template drops or changes messages, such as roles that it does not know.
    """
    marks = [f"span{secrets.token_hex(8)}" for _ in messages]
    written = tokenizer.apply_chat_template(
        [{"role": role, "content": mark} for (role, _), mark in zip(messages, marks, strict=True)],
        tokenize=False,
        add_generation_prompt=answer,
    )
    found: list[Message] = []
    for (role, text), mark in zip(messages, marks, strict=True):
        before, met, written = written.partition(mark)
        if not met:
            raise ValueError(
                f"the chat template of this model does not write the words of {role!r} as they are; "
                "use generate with it"
            )
        found += [(TEMPLATE, before), (role, text)]
    return [*found, (TEMPLATE, written)]


def encode(tokenizer: Any, pairs: Sequence[Message]) -> tuple[Tensor, Tensor]:
    """Return the tokens of `spans`, [T], and the number of the pair that each belongs to, [T].

    Words such as <|end|> are one special token in the template, and plain letters in what a speaker said.
    """
    ids: list[int] = []
    owner: list[int] = []
    for i, (role, text) in enumerate(pairs):
        own = tokenizer(text, add_special_tokens=False, split_special_tokens=role != TEMPLATE)["input_ids"]
        ids += own
        owner += [i] * len(own)
    return torch.tensor(ids, dtype=torch.long), torch.tensor(owner, dtype=torch.long)
