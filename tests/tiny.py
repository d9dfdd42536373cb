"""A decoder of bytes that is small enough to read a text many times within one test."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from everlearn.levels import Level
from everlearn.memory.codec import digest, to_tensors
from everlearn.memory.state import ModelState
from everlearn.models import PRESETS, Decoder, preset

CHUNK = 4
LEVELS = (Level("fast", CHUNK, 0.3, reset="document"), Level("slow", 2 * CHUNK, 0.3))
# one preset for each computation: with levels of a test's own, hope_attention is transformer++ itself
KINDS = tuple(name for name in PRESETS if name != "hope_attention")
# one for each kind of state: keys, a matrix, an MLP with its chunk, both beside a window, memories that write all
STATES = ("transformer++", "delta_net", "titans_lmm", "titans_mac", "hope")
TEXT = b"the cat sat on the mat; the dog sat by it."


def byte_model(name: str = "delta_net", levels: Sequence[Level] = LEVELS, **changes) -> Decoder:
    """Return a decoder over 256 tokens in float64, whose parameters are the same in every call."""
    torch.manual_seed(1)
    sizes = {"dim": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "chunk_size": CHUNK}
    if name.startswith("titans"):
        sizes["window"] = 6  # shorter than the text, so that segments close and windows slide
    return Decoder(preset(name, levels=levels, **{**sizes, **changes})).double()


def fingerprint(state: ModelState) -> str:
    """Return a hash of every bit of a state."""
    return digest(to_tensors(state))


def assert_close(a: ModelState, b: ModelState, atol: float = 1e-10) -> None:
    """Compare the memories and counters of two states; contexts may be padded differently."""
    assert set(a.memory) == set(b.memory)
    for layer, tensors in a.memory.items():
        assert set(tensors) == set(b.memory[layer])
        for leaf, value in tensors.items():
            torch.testing.assert_close(value, b.memory[layer][leaf], atol=atol, rtol=0, msg=f"{layer}/{leaf}")
    assert a.tokens_seen.tolist() == b.tokens_seen.tolist()
    assert a.segment_len.tolist() == b.segment_len.tolist()
