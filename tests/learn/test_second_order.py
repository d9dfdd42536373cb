"""The outer gradient through the inner ones, against finite differences in float64.  [NL eq. 71-74]"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from everlearn.learn import learn_chunk, read
from everlearn.levels import Level
from everlearn.models import Decoder
from everlearn.models.presets import MEMORIES
from everlearn.models.text import encode
from tests.tiny import CHUNK, TEXT, assert_close, byte_model

LEVELS = (Level("fast", CHUNK, 0.3), Level("slow", 2 * CHUNK, 0.3))
IDS = torch.stack([encode(TEXT)[:17], encode(TEXT)[17:34]])
# the last row ends early: nothing is due there, and its gradients are zero
MASK = torch.arange(17) < torch.tensor([[17], [10]])


def outer_loss(model: Decoder, **options) -> Tensor:
    """Return the loss of the last chunk of four, after learning from those before it."""
    state = model.initial_state(2)
    for start in range(0, 16, CHUNK):
        span = slice(start, start + CHUNK + 1)
        report, state = learn_chunk(model, IDS[:, span], state, MASK[:, span], **options)
    return report.nll.sum()


def slope(model: Decoder, parameters: list[Tensor], direction: list[Tensor], loss: Callable[[], Tensor]) -> float:
    """Return the central difference of a loss along a direction; the parameters are put back bit for bit."""
    kept, ends = [p.detach().clone() for p in parameters], []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            for parameter, start, way in zip(parameters, kept, direction, strict=True):
                parameter.copy_(start + step * way)
        ends.append(float(loss()))
    with torch.no_grad():
        for parameter, start in zip(parameters, kept, strict=True):
            parameter.copy_(start)
    return (ends[0] - ends[1]) / 2e-6


@pytest.mark.parametrize("name", ["delta_net", "transformer++"])
@pytest.mark.parametrize("word", MEMORIES)
def test_the_outer_gradient_of_the_learned_start_is_that_of_finite_differences(name, word):
    """With the clip at work, two levels, and a row that ends early. First order differs: it leaves the inner part out.

    The tolerance is the error of a central difference with steps of 1e-6 through four chunks in float64.
    """
    model = byte_model(name, cms=word, levels=LEVELS)
    parameters = [p for label, p in model.named_parameters() if ".mlp." in label]
    exact = torch.autograd.grad(outer_loss(model, second_order=True), parameters)
    first = torch.autograd.grad(outer_loss(model, differentiable=True), parameters)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        way = [torch.randn(p.shape, dtype=p.dtype, generator=generator) for p in parameters]
        expected = slope(model, parameters, way, lambda: outer_loss(model))
        along = {
            kind: float(sum((g * w).sum() for g, w in zip(grads, way, strict=True)))
            for kind, grads in (("exact", exact), ("first", first))
        }
        assert along["exact"] == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert along["first"] != pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("name", ["delta_net", "transformer++"])
@pytest.mark.parametrize("word", MEMORIES)
def test_the_order_changes_no_value(name, word):
    """To 1e-10 in float64, because other kernels run where a gradient has one itself; first order is bit-identical."""
    model = byte_model(name, cms=word, levels=LEVELS)
    plain, state = read(model, IDS, model.initial_state(2), MASK, chunk_size=CHUNK, end="flush")
    for kind, atol in (("differentiable", 0.0), ("second_order", 1e-10)):
        report, through = read(model, IDS, model.initial_state(2), MASK, chunk_size=CHUNK, end="flush", **{kind: True})
        torch.testing.assert_close(report.nll.detach(), plain.nll, atol=atol, rtol=0, equal_nan=True)
        assert_close(through.detach(), state, atol)
        assert through.memory["blocks.0.mlp"]["fast.up"].requires_grad
    assert not state.memory["blocks.0.mlp"]["fast.up"].requires_grad


def test_reading_to_the_end_of_a_document_keeps_the_second_order():
    """`read` hands the option on to every chunk, the flushed one too: the same gradient as chunk by chunk by hand."""
    model = byte_model(levels=LEVELS)
    parameters = [p for label, p in model.named_parameters() if ".mlp." in label]

    def by_hand(**options) -> Tensor:
        state = model.initial_state(1)
        for start in (0, CHUNK):
            _, state = learn_chunk(model, IDS[:1, start : start + CHUNK + 1], state, **options)
        _, state = learn_chunk(model, IDS[:1, 2 * CHUNK : 11], state, **options)
        return state.memory["blocks.1.mlp"]["slow.up"].square().sum()

    _, state = read(model, IDS[:1, :11], model.initial_state(1), chunk_size=CHUNK, end="flush", second_order=True)
    whole = state.memory["blocks.1.mlp"]["slow.up"].square().sum()
    expected = torch.autograd.grad(by_hand(second_order=True), parameters)
    for a, b in zip(torch.autograd.grad(whole, parameters), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)
