"""The delta-rule layer: its parts against the equation; what it learns is in `tests/recipes/test_small_tasks.py`."""

import pytest
import torch
import torch.nn.functional as F

from everlearn.layers import DeltaMemory
from everlearn.layers.delta_net import unit
from everlearn.ops.delta_rule.naive import delta_rule

DIM, HEADS = 12, 3


def literal(layer: DeltaMemory, x: torch.Tensor) -> torch.Tensor:
    """One row: convolution, gates and norms written out, the recurrence token by token."""
    size = DIM // HEADS
    inputs = F.pad(x @ layer.qkv.weight.T, (0, 0, layer.conv_width - 1, 0))
    mixed = torch.stack([(inputs[t : t + layer.conv_width] * layer.conv).sum(0) for t in range(len(x))])
    q, k, v = (mixed * torch.sigmoid(mixed)).view(1, len(x), 3, HEADS, size).unbind(2)
    logits = x @ layer.gates.weight.T + layer.gates.bias
    alpha = torch.sigmoid(logits[:, HEADS:])
    eta = (1 if layer.gated else 1 + alpha) * torch.sigmoid(logits[:, :HEADS])
    q, k = (part / (part.square().sum(-1, keepdim=True) + 1e-6).sqrt() for part in (q, k))
    y, _ = delta_rule(q, k, v, eta[None], alpha.log()[None], decay_first=layer.gated)
    y = y[0] / (y[0].square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.norm.weight
    gate = x @ layer.read_gate.weight.T if layer.gated else None
    y = y.flatten(1) if gate is None else y.flatten(1) * gate * torch.sigmoid(gate)
    return y @ layer.out.weight.T


@pytest.mark.parametrize("gated", [False, True])
def test_equals_the_equation_written_out(gated):
    torch.manual_seed(0)
    layer = DeltaMemory(DIM, HEADS, gated=gated).double()
    with torch.no_grad():
        layer.norm.weight.uniform_(0.5, 1.5)
        layer.gates.weight.mul_(20)
    x = torch.randn(1, 40, DIM, dtype=torch.float64)
    assert torch.allclose(layer(x)[0][0], literal(layer, x[0]), rtol=0, atol=1e-12)


def test_state_names_and_the_empty_start():
    torch.manual_seed(0)
    layer = DeltaMemory(DIM, HEADS)
    x = torch.randn(2, 6, DIM)
    _, state = layer(x)
    assert {n: tuple(t.shape) for n, t in state.memory.items()} == {"S": (2, HEADS, 4, 4)}
    assert {n: tuple(t.shape) for n, t in state.context.items()} == {"conv": (2, 3, 3 * DIM)}
    assert torch.equal(state.context["conv"], layer.qkv(x)[:, -3:])
    _, state = layer(x, None, torch.zeros(2, 6, dtype=torch.bool))
    assert state.memory["S"].abs().max() == 0
    assert state.context["conv"].abs().max() == 0


def test_convolution_and_gates_start_where_the_docstring_says():
    layer = DeltaMemory(DIM, HEADS, alpha_bias=5.0)
    current = torch.tensor([0.0, 0.0, 0.0, 1.0])[:, None]
    assert (layer.conv - current).abs().max() <= 0.5 and (layer.conv - current).mean().abs() < 0.15
    eta, log_alpha = layer._gates(torch.zeros(1, 1, DIM))
    alpha = torch.sigmoid(torch.tensor(5.0))
    assert torch.allclose(log_alpha.exp(), alpha) and torch.allclose(eta, (1 + alpha) / 2)
    for bias, tokens in ((4.0, 38), (5.0, 100), (7.0, 760)):
        assert abs(torch.sigmoid(torch.tensor(bias, dtype=torch.float64)) ** tokens - 0.5) < 0.015


def test_unit_never_exceeds_one_and_is_smooth_at_zero():
    x = torch.cat([torch.zeros(1, 8), torch.randn(50, 8) * torch.logspace(-6, 3, 50)[:, None]]).requires_grad_()
    y = unit(x)
    assert (y.norm(dim=-1) <= 1 + 1e-6).all() and torch.allclose(y[-20:].norm(dim=-1), torch.ones(20), atol=1e-4)
    y.sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().max() < 1e4


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="num_heads 5 does not divide dim 12"):
        DeltaMemory(12, 5)
    with pytest.raises(ValueError, match="conv_width 0"):
        DeltaMemory(12, 3, conv_width=0)


def test_a_document_ends_with_an_empty_memory_in_the_rows_it_concerns():
    torch.manual_seed(0)
    layer = DeltaMemory(DIM, HEADS)
    _, state = layer(torch.randn(2, 6, DIM))
    ended = layer.tick(state, "document", torch.tensor([True, False]))
    assert torch.equal(ended.memory["S"][0], layer.initial_state(1).memory["S"][0])
    assert torch.equal(ended.memory["S"][1], state.memory["S"][1])
    assert torch.equal(layer.tick(state, "turn").memory["S"], state.memory["S"])
