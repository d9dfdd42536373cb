"""What every layer that reads a sequence must keep, whatever is inside: cuts, padding, rows and the past."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from everlearn.layers import (
    Attention,
    DeltaMemory,
    MemoryAsContext,
    MemoryAsGate,
    MemoryAsLayer,
    SelfModifyingTitans,
    TitansMemory,
)
from everlearn.memory.state import LayerState
from everlearn.ops.self_modifying import L2, SelfModifyingRule

DIM, HEADS, ROWS, LENGTH = 16, 2, 3, 21
TOLERANCE = 1e-10  # float64: another cut only changes the order of a few dozen additions
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "attention": lambda: Attention(DIM, HEADS),
    "windowed_attention": lambda: Attention(DIM, HEADS, window=5),
    "delta_memory": lambda: DeltaMemory(DIM, HEADS, block_size=8),
    "gated_delta_memory": lambda: DeltaMemory(DIM, HEADS, block_size=8, gated=True),
    "self_modifying": lambda: SelfModifyingTitans(DIM, HEADS, rule=SelfModifyingRule(chunk_size=4)),
    "self_modifying_mlp": lambda: SelfModifyingTitans(
        DIM, HEADS, rule=SelfModifyingRule(chunk_size=4, others_chunk_size=8, implicit=True), hidden_dim=6
    ),
    "self_modifying_every_option": lambda: SelfModifyingTitans(
        DIM,
        HEADS,
        rule=SelfModifyingRule(chunk_size=8, others_chunk_size=4, implicit=True, objective=L2, beta=0.5),
        generate_q=True,
        anchored=True,
    ),
    "delta_memory_without_conv": lambda: DeltaMemory(DIM, HEADS, conv_width=1, block_size=8),
    "titans_memory": lambda: TitansMemory(DIM, HEADS, chunk_size=4),
    "titans_memory_of_two_layers": lambda: TitansMemory(DIM, HEADS, chunk_size=8, depth=2, momentum=False),
    "persistent_attention": lambda: Attention(DIM, HEADS, window=5, num_persistent=3),
    "memory_as_context": lambda: MemoryAsContext(DIM, HEADS, segment_size=6, num_persistent=3),
    "memory_as_gate": lambda: MemoryAsGate(DIM, HEADS, window=5, num_persistent=3, chunk_size=4),
    "memory_as_layer": lambda: MemoryAsLayer(DIM, HEADS, window=5, num_persistent=3, chunk_size=4),
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS.keys())
def layer(request) -> nn.Module:
    torch.manual_seed(0)
    return request.param().double()


def tokens(length: int = LENGTH, rows: int = ROWS) -> Tensor:
    return torch.randn(rows, length, DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def same_state(a: LayerState, b: LayerState, *, bits: bool = False) -> bool:
    pairs = [(a.memory[n], b.memory[n]) for n in a.memory] + [(a.context[n], b.context[n]) for n in a.context]
    close = torch.equal if bits else lambda x, y: torch.allclose(x, y, rtol=0, atol=TOLERANCE)
    return a.memory.keys() == b.memory.keys() and all(x.shape == y.shape and close(x, y) for x, y in pairs)


def first_rows(state: LayerState, index: list[int]) -> LayerState:
    return LayerState({n: t[index] for n, t in state.memory.items()}, {n: t[index] for n, t in state.context.items()})


def lengths_mask(lengths: list[int], size: int) -> Tensor:
    return torch.arange(size) < torch.tensor(lengths)[:, None]


# at and beside the edges of chunks of 4 and 8, windows of 5 and segments of 6, and with nothing on a side
@pytest.mark.parametrize("cut", [0, 1, 4, 5, 6, 8, 11, 18, 20, LENGTH])
def test_reading_in_two_calls_equals_one(layer, cut):
    x = tokens()
    y, state = layer(x)
    first, middle = layer(x[:, :cut])
    second, end = layer(x[:, cut:], middle)
    assert torch.allclose(torch.cat([first, second], 1), y, rtol=0, atol=TOLERANCE)
    assert same_state(end, state)


def test_token_by_token_equals_one_call(layer):
    x = tokens()
    y, want = layer(x)
    state, steps = None, []
    for t in range(LENGTH):
        step, state = layer(x[:, t : t + 1], state)
        steps.append(step)
    assert torch.allclose(torch.cat(steps, 1), y, rtol=0, atol=TOLERANCE)
    assert same_state(state, want)


@pytest.mark.parametrize("seed", range(2))
def test_ragged_pieces_equal_each_row_read_alone(layer, seed):
    """Rows advance at different speeds; some pieces give a row nothing at all."""
    x = tokens()
    generator = torch.Generator().manual_seed(seed)
    read, state, got = [0] * ROWS, None, [[] for _ in range(ROWS)]
    while min(read) < LENGTH:
        take = [min(int(torch.randint(0, 8, (), generator=generator)), LENGTH - r) for r in read]
        size = max(*take, 1)
        piece = torch.randn(ROWS, size, DIM, generator=generator, dtype=torch.float64)  # padding is garbage
        for row, n in enumerate(take):
            piece[row, :n] = x[row, read[row] : read[row] + n]
        y, state = layer(piece, state, lengths_mask(take, size))
        assert y.isfinite().all()
        for row, n in enumerate(take):
            got[row].append(y[row, :n])
            read[row] += n
    for row in range(ROWS):
        want, _ = layer(x[row : row + 1])
        assert torch.allclose(torch.cat(got[row]), want[0], rtol=0, atol=TOLERANCE)
    want, want_state = layer(x)
    assert same_state(state, want_state)


def test_right_padding_changes_nothing(layer):
    x, mask = tokens(), lengths_mask([LENGTH, 13, 0], LENGTH)
    y, state = layer(x, None, mask)
    other = torch.where(mask.unsqueeze(-1), x, torch.full_like(x, torch.nan))
    y_other, state_other = layer(other, None, mask)
    assert same_state(state, state_other, bits=True)
    assert torch.equal(y_other[mask], y[mask]) and y_other.isfinite().all()
    want, want_state = layer(x[1:2, :13])
    assert torch.allclose(y[1:2, :13], want, rtol=0, atol=TOLERANCE)
    after = tokens(4)
    y_next, _ = layer(after, state)
    assert torch.allclose(y_next[1:2], layer(after[1:2], want_state)[0], rtol=0, atol=TOLERANCE)
    assert torch.allclose(y_next[2:], layer(after[2:])[0], rtol=0, atol=TOLERANCE)


def test_a_full_mask_is_no_mask(layer):
    x = tokens()
    y, state = layer(x)
    y_masked, state_masked = layer(x, None, torch.ones(ROWS, LENGTH, dtype=torch.bool))
    assert torch.equal(y, y_masked) and same_state(state, state_masked, bits=True)


def test_rows_never_mix(layer):
    x = tokens()
    _, state = layer(x[:, :9])
    y, end = layer(x[:, 9:], state)
    changed = x.clone()
    changed[1] = 3 - changed[1]
    _, state_changed = layer(changed[:, :9])
    y_changed, end_changed = layer(changed[:, 9:], state_changed)
    assert torch.equal(y[[0, 2]], y_changed[[0, 2]])
    assert same_state(first_rows(end, [0, 2]), first_rows(end_changed, [0, 2]), bits=True)
    assert not torch.equal(y[1], y_changed[1])


@pytest.mark.parametrize("t", [1, 8, 20])
def test_the_future_does_not_change_the_past(layer, t):
    x = tokens()
    changed = x.clone()
    changed[:, t:] = -2 * changed[:, t:]
    y, y_changed = layer(x)[0], layer(changed)[0]
    assert torch.equal(y[:, :t], y_changed[:, :t]) and not torch.equal(y[:, t:], y_changed[:, t:])


def test_the_state_given_is_left_untouched(layer):
    x = tokens()
    _, state = layer(x[:, :9])
    copy = LayerState(*({n: t.clone() for n, t in part.items()} for part in (state.memory, state.context)))
    layer(x[:, 9:], state)
    assert same_state(state, copy, bits=True)


def test_every_parameter_gets_a_gradient(layer):
    x = tokens()
    _, state = layer(x[:, :9])
    y, _ = layer(x[:, 9:], state)
    (y * tokens(12)).sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.norm() > 1e-8, name


def test_what_stands_at_padding_reaches_no_gradient(layer):
    mask = lengths_mask([LENGTH, 13, 0], LENGTH)
    x = torch.where(mask.unsqueeze(-1), tokens(), torch.nan)
    (layer(x, None, mask)[0][mask] * tokens()[mask]).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "bfloat16"])
def test_finite_in_bfloat16(layer, autocast):
    layer, x = (layer.float(), tokens().float()) if autocast else (layer.bfloat16(), tokens().bfloat16())
    want, _ = layer.double()(x.double())
    layer = layer.float() if autocast else layer.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        first, state = layer(x[:, :9])
        second, state = layer(x[:, 9:], state, lengths_mask([12, 5, 0], 12))
    y = torch.cat([first, second], 1)
    mask = lengths_mask([21, 14, 9], 21)
    assert y.isfinite().all() and (y[mask].double() - want[mask]).norm() < 0.03 * want[mask].norm()
    assert all(t.dtype == torch.float32 for t in state.memory.values() if t.is_floating_point())
    y.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_bad_input_is_refused_in_one_line(layer):
    x = tokens()
    with pytest.raises(ValueError, match=r"input has shape \(3, 21, 8\)"):
        layer(x[..., :8])
    with pytest.raises(ValueError, match=r"mask is torch.float64"):
        layer(x, None, torch.ones(ROWS, LENGTH, dtype=torch.float64))
    with pytest.raises(ValueError, match="padding before a real token in row 1"):
        layer(x, None, torch.tensor([[True] * LENGTH, [False] + [True] * (LENGTH - 1), [True] * LENGTH]))
