"""Surprise and write size against a small model that is read by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from everlearn.evals.writes import distance, watch
from everlearn.levels import Level
from tests.tiny import byte_model

TEXT = torch.tensor([116, 104, 101, 32, 99, 97, 116, 32])


def test_the_parts_of_a_write_are_those_of_the_model_itself():
    """One level steps once: with gd and one tensor under the bound, the step is eta times the gradient's norm."""
    model = byte_model(levels=(Level("fast", 4, eta=0.25),))
    for block in model.blocks:
        block.mlp.max_norm = math.inf
    before, text = TEXT[:3], TEXT[3:]
    found = watch(model, before, text)
    with torch.no_grad():
        logits, after = model(TEXT[None])
        _, start = model(before[None])
    nll = -logits[0, 2:-1].log_softmax(-1).gather(1, text[:, None]).sum()
    assert found.bits == pytest.approx(float(nll) / 5 / math.log(2), abs=1e-12)
    assert found.levels == pytest.approx(0.25 * found.surprise, rel=1e-9) and found.surprise > 0
    # the gradient is that of the text behind what was read before, of which the last token is the first input
    with torch.no_grad():
        _, behind = model(before[None, :-1])
    logits, _ = model(TEXT[None, 2:-1], behind)
    weights = [w for block in model.blocks for w in block.mlp.parameters()]
    grads = torch.autograd.grad(F.cross_entropy(logits[0], text), weights)
    assert found.surprise == pytest.approx(float(sum(g.square().sum() for g in grads)) ** 0.5, rel=1e-9)
    # a sum of steps is at least the way from start to end, and less than ten times as long here
    assert distance(start, after) <= found.memory < 10 * distance(start, after)


def test_attention_writes_nothing_and_a_plain_mlp_neither():
    found = watch(byte_model("transformer++", levels=()), TEXT[:2], TEXT[2:])
    assert found.memory == found.levels == found.surprise == 0 and found.bits > 0


def test_the_distance_of_two_memories_is_a_norm_by_hand():
    model = byte_model(levels=())
    _, a = model(TEXT[None])
    b = a.map(lambda tensor: tensor.clone())
    b.memory["blocks.0.mixer"]["S"][0, 0, 0, :2] += torch.tensor([3.0, 4.0])
    assert distance(a, b) == pytest.approx(5.0)
    assert distance(a, b, {"blocks.1.mixer"}) == 0 and distance(a, a) == 0


def test_too_short_texts_are_refused():
    model = byte_model()
    with pytest.raises(ValueError, match="1 tokens before a text of 2 are too few"):
        watch(model, TEXT[:1], TEXT[1:3])
    with pytest.raises(ValueError, match="2 tokens before a text of 0"):
        watch(model, TEXT[:2], TEXT[:0])
