"""Reading a stream in pieces of any size: the result does not depend on where it was cut."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from everlearn.learn.chunk import ChunkReport, LearningModel, Updates, check_skip, learn_chunk, token_nll
from everlearn.levels import check_levels
from everlearn.memory.state import ModelState
from everlearn.models.rows import check_tokens

End = Literal["open", "flush", "drop"]
READ_AHEAD = 512  # tokens that a pass without learning reads at once; changes no result


class Step(Protocol):
    """Score a chunk whose last target is known, and learn from it; `learn_chunk` unless something else is asked for."""

    def __call__(
        self, ids: Tensor, state: ModelState, mask: Tensor | None, *, skip: Tensor | None
    ) -> tuple[ChunkReport, ModelState]:
        """Return what the chunk showed, and the state after its inputs; see `learn_chunk`."""
        ...


@dataclass(frozen=True)
class ReadReport:
    """What reading a piece of a stream showed.

    Args:
        nll: negative log-likelihood of each token in nats, [B, T], always taken before the token was learned from;
            NaN at padding and at the first token of a segment, which nothing predicts.
        steps: level name -> how often each row's level stepped, [B]; a step in several layers counts once.
    """

    nll: Tensor
    steps: dict[str, Tensor]


def read(
    model: LearningModel,
    ids: Tensor,
    state: ModelState,
    mask: Tensor | None = None,
    *,
    chunk_size: int,
    skip: Tensor | None = None,
    learn: bool = True,
    end: End = "open",
    differentiable: bool = False,
    second_order: bool = False,
    step: Step | None = None,
) -> tuple[ReadReport, ModelState]:
    """Read a piece of each row's stream, chunk by chunk.  [NL eq. 71]

    Chunk n has the inputs nC to nC + C - 1 and the targets nC + 1 to nC + C, counted from the start of the segment.
    It is scored first and learned from when its last target is known. Tokens of an unfinished chunk are scored as they
    come and wait in `state.context["open"]`; when it closes it is computed again from the context at its start.

    Args:
        model: such as `models.Decoder`.
        ids: [B, T].
        state: what earlier pieces left; the argument is left untouched.
        mask: [B, T] bool, True for real tokens; any padding changes nothing.
        chunk_size: C, tokens that share one gradient anchor.
        skip: [B, T] bool, True for tokens that are context alone; see `learn_chunk`. None means none is.
        learn: False reads with the memory as it is and only moves the context on.
        end: "open" keeps the unfinished chunk for the next piece; "flush" learns from it and "drop" forgets it, and
            both close the segment, so that the next piece starts a new one.
        differentiable: see `learn_chunk`.
        second_order: see `learn_chunk`.
        step: what is done with a chunk that closes; None takes `learn_chunk` with this model.
    Returns:
        report: the score of every token.
        state: to pass to the next call.
    Raises:
        ValueError: tokens, mask or state that do not fit, a chunk_size that does not divide a level's period, or
            another word for `end`.
        NotFiniteError: see `learn_chunk`; the caller's state is as it was.
    """
    check_tokens(ids, mask, state)
    check_skip(ids, skip)
    check_end(end)
    if chunk_size < 1:
        raise ValueError(f"chunk_size {chunk_size} is below 1; pass the model's chunk_size")
    for cms in model.memories().values():
        check_levels(cms.levels, chunk_size)
    buffer = _Buffer.join(state, ids, mask, skip)
    state = replace(state, context={name: part for name, part in state.context.items() if name != "open"})
    step = step or partial(learn_chunk, model, differentiable=differentiable, second_order=second_order)
    steps: dict[str, Tensor] = {}
    if not learn:
        state = buffer.consume(model, state)
    while learn and bool((active := buffer.left > chunk_size).any()):
        window, real = buffer.window(chunk_size + 1)
        skipped = buffer.skipped(chunk_size + 1)
        real = real & active[:, None]
        report, state = step(window, state, real, skip=skipped)
        buffer.score(report.nll, real[:, 1:])
        buffer.start = buffer.start + chunk_size * active
        _count(steps, report.updates)
    window, real = buffer.window(chunk_size)
    if learn and bool(real[:, 1:].any()):
        if end == "flush":
            report, state = step(window, state, real, skip=buffer.skipped(chunk_size))
            buffer.score(report.nll, real[:, 1:])
            _count(steps, report.updates)
        else:
            with torch.no_grad():
                logits, _ = model(window[:, :-1], state, real[:, 1:])
            buffer.score(token_nll(logits, window[:, 1:]), real[:, 1:])
    if end == "open":
        kept = {"ids": window, "count": buffer.left}
        if (skipped := buffer.skipped(chunk_size)) is not None:
            kept["skip"] = skipped
        state = replace(state, context=state.context | {"open": kept} if buffer.left.any() else state.context)
    else:
        state = state.new_segment()
    return ReadReport(buffer.scores(), steps), state


def check_end(end: str) -> None:
    """Refuse an unknown way to end a piece."""
    if end not in get_args(End):
        raise ValueError(f"end {end!r} is unknown; choose one of {', '.join(get_args(End))}")


@dataclass
class _Buffer:
    """The open chunk and the new tokens of each row, left-aligned, and how far each row has been consumed."""

    ids: Tensor  # [B, L]
    count: Tensor  # [B] real tokens
    start: Tensor  # [B] first token that is not consumed yet
    nll: Tensor  # [B, L]
    place: Tensor  # [B, T] where each new token stands in `ids`
    new: Tensor  # [B, T] bool, False at padding
    skip: Tensor | None  # [B, L] bool, or None where every token is learned from

    @classmethod
    def join(cls, state: ModelState, ids: Tensor, mask: Tensor | None, skip: Tensor | None) -> _Buffer:
        """Put the tokens that wait in the state before the new ones."""
        new = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        waiting = state.context.get("open")
        old = waiting["ids"] if waiting else ids[:, :0]
        count = waiting["count"] if waiting else torch.zeros_like(state.tokens_seen)
        real = torch.cat([torch.arange(old.shape[1], device=ids.device) < count[:, None], new], 1)
        order = torch.argsort(~real, dim=1, stable=True)
        joined = torch.cat([old, ids], 1).gather(1, order)
        place = torch.argsort(order, dim=1)[:, old.shape[1] :]
        nll = torch.full(joined.shape, torch.nan, dtype=torch.float64, device=ids.device)
        if skip is not None or (waiting and "skip" in waiting):
            old_skip = waiting["skip"] if waiting and "skip" in waiting else torch.zeros_like(old, dtype=torch.bool)
            skip = torch.cat([old_skip, torch.zeros_like(new) if skip is None else skip], 1).gather(1, order)
        return cls(joined, real.sum(1), torch.zeros_like(count), nll, place, new, skip)

    @property
    def left(self) -> Tensor:
        """Return how many tokens of each row are not consumed yet, [B]."""
        return self.count - self.start

    def window(self, width: int) -> tuple[Tensor, Tensor]:
        """Return the next `width` tokens of each row and which of them are real, [B, width] each."""
        index, real = self._next(width)
        return torch.nn.functional.pad(self.ids, (0, 1)).gather(1, index), real

    def skipped(self, width: int) -> Tensor | None:
        """Return which of these tokens are context alone, [B, width]; None where every token is learned from."""
        if self.skip is None:
            return None
        return torch.nn.functional.pad(self.skip, (0, 1)).gather(1, self._next(width)[0])

    def _next(self, width: int) -> tuple[Tensor, Tensor]:
        """Return where the next tokens stand, one past the end for none, and which are real, [B, width] each."""
        index = self.start[:, None] + torch.arange(width, device=self.ids.device)
        real = index < self.count[:, None]
        return torch.where(real, index, self.ids.shape[1]), real

    def score(self, nll: Tensor, real: Tensor) -> None:
        """Note the scores, [B, n], of the tokens after the first of the window."""
        index = self.start[:, None] + 1 + torch.arange(nll.shape[1], device=nll.device)
        rows = torch.arange(len(nll), device=nll.device)[:, None].expand_as(index)
        self.nll = self.nll.index_put((rows[real], index[real]), nll.to(self.nll.dtype)[real])

    def consume(self, model: LearningModel, state: ModelState) -> ModelState:
        """Read everything but each row's last token without learning."""
        with torch.no_grad():
            while (left := int(self.left.max())) > 1:
                window, real = self.window(min(left, READ_AHEAD + 1))
                logits, state = model(window[:, :-1], state, real[:, 1:])
                self.score(token_nll(logits, window[:, 1:]), real[:, 1:])
                self.start = self.start + real[:, 1:].sum(1)
        return state

    def scores(self) -> Tensor:
        """Return the scores of the new tokens, [B, T], NaN at padding."""
        return torch.where(self.new, self.nll.gather(1, self.place), torch.nan)


def _count(steps: dict[str, Tensor], updates: Updates) -> None:
    """Add one chunk's updates to the number of steps per level."""
    for level in {name for levels in updates.values() for name in levels}:
        stepped = torch.stack([levels[level].rows for levels in updates.values() if level in levels]).any(0)
        steps[level] = steps.get(level, 0) + stepped.long()
