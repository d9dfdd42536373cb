"""What a learner takes as text: plain text, tokens, or a conversation whose speakers are told apart."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from everlearn.models.protocol import TextModel

DOCUMENT = "document"  # the role of plain text
ROLES = frozenset({"user", DOCUMENT})  # learned from unless the caller says otherwise: never the model's own words
# read as context unless the caller says otherwise; a word in neither list is more likely a slip of the keyboard
CONTEXT = frozenset({"assistant", "system", "developer", "tool", "function", "template", *ROLES})


@dataclass(frozen=True)
class Tokens:
    """Token numbers, with `start_ids` where a text begins, and which of them are context alone.

    Args:
        ids: [T] int64.
        skip: [T] bool, True where a token is scored but not learned from.
    """

    ids: Tensor
    skip: Tensor


Text = str | bytes | Tokens | Sequence[tuple[str, str]]


def tokens_of(model: TextModel, text: Text, learn_from: Collection[str], whose: str = "") -> Tokens:
    """Return the tokens of a text on the model's device.

    Args:
        model: whose tokens they are.
        text: plain text, which has the role "document"; (role, text) pairs in their order; or tokens as they are.
        learn_from: the roles that are learned from; the others are context.
        whose: said in an error, such as " for user 'ada'".
    Raises:
        ValueError: nothing in it, roles that are one text, a pair that is none, or tokens and `skip` of different
            lengths.
    """
    if isinstance(learn_from, str):
        raise ValueError(f"learn_from {learn_from!r} is one text; give a set of roles, such as {{{learn_from!r}}}")
    if isinstance(text, Tokens):
        if text.ids.shape != text.skip.shape or text.ids.ndim != 1 or text.skip.dtype != torch.bool:
            raise ValueError(
                f"ids have shape {tuple(text.ids.shape)}, skip is {text.skip.dtype} {tuple(text.skip.shape)}; "
                "give one truth value for each token, [T] both"
            )
        parts = [(text.ids, text.skip)]
    else:
        spans = [(DOCUMENT, text)] if isinstance(text, str | bytes) else _spans(text)
        parts = []
        for role, words in spans:
            ids = model.encode(words)
            parts.append((ids, torch.full(ids.shape, role not in learn_from)))
    if not sum(len(ids) for ids, _ in parts):
        raise ValueError(f"the text{whose} is empty; give at least one character")
    return Tokens(*(torch.cat([part[i] for part in parts]).to(model.device) for i in (0, 1)))


def check_roles(text: Text, known: Collection[str]) -> None:
    """Refuse a conversation with a role that nobody has named.

    Args:
        text: anything but a conversation has no roles of its own.
        known: the roles that are learned from or context.
    Raises:
        ValueError: another role, or no conversation.
    """
    for role, _ in [] if isinstance(text, str | bytes | Tokens) else _spans(text):
        if role not in known:
            raise ValueError(
                f"role {role!r} is unknown, the roles here are {', '.join(sorted(known))}; correct it, name it in "
                f"learn_from={{{role!r}}} to learn its words, or in context={{{role!r}}} to read them as context"
            )


def _spans(text: object) -> list[tuple[str, str]]:
    """Return the pairs of a conversation; refuse what is none."""
    if not isinstance(text, Sequence):
        raise ValueError(f"got {type(text).__name__} where a text is needed; give str or bytes")
    for span in text:
        pair = isinstance(span, tuple | list) and len(span) == 2
        if not pair or not all(isinstance(part, str) for part in span):
            raise ValueError(
                f"a conversation is a list of (role, text), but it holds {span!r:.60}; "
                "give pairs such as ('user', 'My dog is called Rex.')"
            )
    return [(role, words) for role, words in text]


@dataclass(frozen=True)
class Rows:
    """Texts of several users side by side, padded at the right; every tensor is [B, T].

    Args:
        ids: token numbers.
        real: bool, False at padding.
        skip: bool, True for context alone; None where every token is learned from.
        shown: bool, False at padding and for the tokens that open a text: they are no part of it.
    """

    ids: Tensor
    real: Tensor
    skip: Tensor | None
    shown: Tensor

    @classmethod
    def of(cls, texts: Sequence[Tokens], openings: Sequence[Tensor]) -> Rows:
        """Put texts together, each after the tokens, [N], that open it."""
        no = [torch.zeros_like(opening, dtype=torch.bool) for opening in openings]
        ids = _pad([torch.cat([o, text.ids]) for o, text in zip(openings, texts, strict=True)])
        skip = _pad([torch.cat([o, text.skip]) for o, text in zip(no, texts, strict=True)])
        real = _pad([torch.cat([~o, torch.ones_like(text.skip)]) for o, text in zip(no, texts, strict=True)])
        shown = _pad([torch.cat([o, torch.ones_like(text.skip)]) for o, text in zip(no, texts, strict=True)])
        return cls(ids, real, skip if bool(skip.any()) else None, shown)

    @property
    def length(self) -> int:
        """Return the length of the longest row."""
        return self.ids.shape[1]

    def piece(self, start: int, stop: int) -> Rows:
        """Return the columns from `start` to before `stop`."""
        skip = None if self.skip is None else self.skip[:, start:stop]
        return Rows(self.ids[:, start:stop], self.real[:, start:stop], skip, self.shown[:, start:stop])


def _pad(rows: list[Tensor]) -> Tensor:
    """Stack rows of different lengths, zeros at the right."""
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
