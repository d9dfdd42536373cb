"""The guard's two numbers come from the plain loss, and its bound decides."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from everlearn.learn import ModelGuard, read
from everlearn.levels import consolidate
from everlearn.models import Decoder
from everlearn.models.text import encode
from tests.tiny import CHUNK, byte_model

PROBE = torch.stack([encode(b"a general text, say"), encode(b"and another of it. ")])


def loss(model: Decoder) -> float:
    logits, _ = model(PROBE[:, :-1])
    return float(F.cross_entropy(logits.flatten(0, 1), PROBE[:, 1:].flatten()).detach())


def other(scale: float) -> Decoder:
    model = byte_model()
    with torch.no_grad():
        model.embedding.weight.mul_(scale)
    return model


def test_the_rise_of_the_mean_loss_is_what_is_bounded():
    """Each number equals one full pass; the bound is met just above the rise and missed just below it."""
    old, new = byte_model(), other(1.5)
    rise = loss(new) - loss(old)
    assert rise > 0.01
    verdict = ModelGuard(PROBE, rise + 1e-6)(old, new)
    assert verdict.accepted
    assert verdict.numbers["before"] == pytest.approx(loss(old), abs=1e-10)
    assert verdict.numbers["after"] == pytest.approx(loss(new), abs=1e-10)
    assert not ModelGuard(PROBE, rise - 1e-6)(old, new).accepted
    assert ModelGuard(PROBE, -rise + 1e-6)(new, old).accepted
    assert not ModelGuard(PROBE, -rise - 1e-6)(new, old).accepted
    assert f"{loss(old):.4f} to {loss(new):.4f} nats, at most" in verdict.reason


def test_a_candidate_that_is_not_finite_is_refused():
    verdict = ModelGuard(PROBE, 1e9)(byte_model(), other(math.nan))
    assert not verdict.accepted
    assert "is nan" in verdict.reason
    assert set(verdict.numbers) == {"before", "max_rise"}


def test_it_guards_the_door():
    """A text of one byte, learned, raises the loss on the probe, and the guard says by how much."""
    model = byte_model()
    ids = encode(b"\x00" * 200)[None]
    _, state = read(model, ids, model.initial_state(1).detach(), chunk_size=CHUNK)
    strict, event = consolidate(model, state, ["fast", "slow"], ModelGuard(PROBE, 0.0))
    loose, accepted = consolidate(model, state, ["fast", "slow"], ModelGuard(PROBE, 50.0))
    rise = loss(loose) - loss(model)
    assert rise > 0
    assert strict is model and not event.verdict.accepted
    assert accepted.verdict.accepted and loose is not model
    assert event.verdict.numbers["after"] - event.verdict.numbers["before"] == pytest.approx(rise, abs=1e-10)


def test_a_guard_that_guards_nothing_cannot_be_built():
    for ids in (PROBE[0], PROBE[:, :1], PROBE[:0]):
        with pytest.raises(ValueError, match="at least two tokens a row"):
            ModelGuard(ids, 0.1)
    for bound in (math.inf, math.nan):
        with pytest.raises(ValueError, match="guards nothing"):
            ModelGuard(PROBE, bound)
