"""What is timed: a training step without and with what the levels write, reading, and decoding."""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.evals.speed.subjects import tokens
from everlearn.learn.chunk import learn_chunk, token_nll
from everlearn.learn.stream import READ_AHEAD, read
from everlearn.memory.state import ModelState
from everlearn.models import Decoder
from everlearn.train.reading import backward_while_reading


def train(model: Decoder, ids: Tensor) -> None:
    """Take the gradient of the next-token loss with respect to all parameters; levels do not step.

    Args:
        model: its gradients are dropped at the end.
        ids: [B, T + 1].
    """
    logits, _ = model(ids[:, :-1])
    token_nll(logits, ids[:, 1:]).mean().backward()
    model.zero_grad(set_to_none=True)


def train_through(model: Decoder, ids: Tensor) -> None:
    """Do the same with levels that learn chunk by chunk, through all that is carried on (first order)."""
    state = model.initial_state(len(ids))
    report, _ = read(model, ids, state, chunk_size=model.chunk_size, differentiable=True)
    report.nll[:, 1:].mean().backward()
    model.zero_grad(set_to_none=True)


def train_reading(model: Decoder, ids: Tensor) -> None:
    """Do the same with one backward pass for each chunk: first order, cut where a chunk ends."""
    backward_while_reading(model, ids)
    model.zero_grad(set_to_none=True)


def learn(model: Decoder, ids: Tensor) -> None:
    """Read with levels that learn; no gradient of the parameters is taken."""
    read(model, ids, model.initial_state(len(ids)).detach(), chunk_size=model.chunk_size)


class Decoding:
    """A stream that goes on by one chunk, token by token, with every call.

    With `learning`, the chunk is then learned from: its tokens are computed once more, together, from where the chunk
    began, as `learn.read` does when a chunk closes.

    Args:
        model: see `subjects.subject`.
        context: tokens that stand before.
        learning: whether the levels learn.
    """

    def __init__(self, model: Decoder, context: int, *, learning: bool) -> None:
        self.model, self.learning = model, learning
        self.state = self._read(tokens(1, context, model.device))
        self.next = tokens(1, model.chunk_size + 1, model.device)

    def __call__(self) -> None:
        """Decode `chunk_size` tokens, then learn from them if that is asked for."""
        start = state = self.state
        with torch.no_grad():
            for token in self.next[:, :-1].split(1, 1):
                logits, state = self.model(token, state)
                logits[:, -1].argmax(-1)
        if self.learning:
            _, state = learn_chunk(self.model, self.next, start)
        self.state = state

    def _read(self, ids: Tensor) -> ModelState:
        """Read the context with no gradient, piece by piece."""
        state = self.model.initial_state(1).detach()
        with torch.no_grad():
            for piece in ids.split(READ_AHEAD, 1):
                _, state = self.model(piece, state)
        return state
