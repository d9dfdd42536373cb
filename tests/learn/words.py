"""A model whose tokens stand for one to four bytes, so that a token and a byte are two things."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from everlearn.layers.leveled import LeveledMemory
from everlearn.memory.state import ModelState
from tests.tiny import LEVELS, byte_model

START, STOP, THE = 256, 257, 258  # the last stands for b"the "


class Words:
    """A decoder of bytes with three more tokens; the first is what every text begins with."""

    def __init__(self, levels=LEVELS) -> None:
        self.decoder = byte_model(levels=levels, vocab_size=259)
        self.chunk_size, self.device = self.decoder.chunk_size, self.decoder.device
        self.start_ids, self.stop_ids = (START,), (STOP,)
        self.initial_state, self.tick = self.decoder.initial_state, self.decoder.tick
        self.fingerprint, self.eval = self.decoder.fingerprint, self.decoder.eval

    def __call__(self, ids: Tensor, state: ModelState, mask: Tensor | None = None) -> tuple[Tensor, ModelState]:
        return self.decoder(ids, state, mask)

    def memories(self) -> Mapping[str, LeveledMemory]:
        return self.decoder.memories()

    def encode(self, text: str | bytes) -> Tensor:
        data = text.encode() if isinstance(text, str) else text
        parts = data.split(b"the ")
        ids = [number for part in parts for number in (THE, *part)][1:]
        return torch.tensor(ids, dtype=torch.long)

    def decode(self, ids: Tensor) -> str:
        return b"".join(b"the " if i == THE else bytes([i]) if i < 256 else b"" for i in ids.tolist()).decode()

    def count_bytes(self, ids: Tensor) -> Tensor:
        return torch.where(ids == THE, 4, (ids < 256).long())
