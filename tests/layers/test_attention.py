"""Attention against softmax written out, and the cache that it carries."""

import cmath
import math

import pytest
import torch

from everlearn.layers import Attention
from everlearn.layers.attention import rotate

DIM, HEADS = 12, 2


def literal(layer: Attention, x: torch.Tensor) -> torch.Tensor:
    """One row, token by token, head by head, in float64; rotary pairs as complex numbers."""
    size = DIM // HEADS
    rows = x @ layer.qkv.weight.T
    y = torch.zeros_like(x)
    for head in range(HEADS):
        q, k, v = (rows[:, part * DIM + head * size :][:, :size] for part in range(3))
        rates = [layer.rope_base ** (-2 * i / size) for i in range(size // 2)]
        turned = []
        for part in (q, k):
            pairs = torch.complex(part[:, : size // 2], part[:, size // 2 :])
            turns = [[cmath.exp(1j * t * rate) for rate in rates] for t in range(len(x))]
            turned.append(pairs * torch.tensor(turns, dtype=torch.complex128))
        for t in range(len(x)):
            first = 0 if layer.window is None else max(0, t - layer.window + 1)
            scores = (turned[0][t] * turned[1][first : t + 1].conj()).sum(-1).real / math.sqrt(size)
            y[t, head * size : (head + 1) * size] = scores.exp() / scores.exp().sum() @ v[first : t + 1]
    return y @ layer.out.weight.T


def make(**options) -> Attention:
    torch.manual_seed(0)
    return Attention(DIM, HEADS, **options).double()


def draw(length: int, rows: int = 1) -> torch.Tensor:
    return torch.randn(rows, length, DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("window", [None, 1, 2, 5, 11, 40])
@pytest.mark.parametrize("base", [10000.0, 10.0])
def test_equals_softmax_written_out(window, base):
    layer, x = make(window=window, rope_base=base), draw(11)
    with torch.no_grad():
        want = literal(layer, x[0])
        assert torch.allclose(layer(x)[0][0], want, rtol=0, atol=1e-12)
        state, steps = None, []
        for t in range(11):
            y, state = layer(x[:, t : t + 1], state)
            steps.append(y[0])
        assert torch.allclose(torch.cat(steps), want, rtol=0, atol=1e-12)


def test_rotation_by_hand():
    x = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64).reshape(1, 1, 1, 4)
    y = rotate(x, torch.tensor([[3]]), base=100.0)  # pairs (0, 2) turn by 3, (1, 3) by 3 / 10
    want = torch.tensor([math.cos(3), -math.sin(0.3), math.sin(3), math.cos(0.3)], dtype=torch.float64)
    assert torch.allclose(y.flatten(), want, atol=1e-15)


def test_products_depend_on_the_distance_alone():
    q, k = draw(1)[..., :4].reshape(1, 1, 1, 4), draw(2)[:, 1:, :4].reshape(1, 1, 1, 4)
    near, far = ((rotate(q, torch.tensor([[p + 7]])) * rotate(k, torch.tensor([[p]]))).sum() for p in (0, 5000))
    assert torch.allclose(near, far, atol=1e-10)


def test_the_cache_names_and_positions():
    layer = make()
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    _, state = layer(draw(4, rows=2), None, mask)
    assert not state.memory and {n: tuple(t.shape) for n, t in state.context.items()} == {
        "k": (2, 4, HEADS, DIM // HEADS),
        "v": (2, 4, HEADS, DIM // HEADS),
        "positions": (2, 4),
    }
    assert state.context["positions"].tolist() == [[1, 2, 3, 4], [1, 2, 0, 0]]
    assert state.context["positions"].dtype == torch.int64
    _, state = layer(draw(1, rows=2), state, torch.tensor([[False], [True]]))
    assert state.context["positions"].tolist() == [[1, 2, 3, 4], [1, 2, 3, 0]]
    assert state.context["k"][1, 3].abs().max() == 0


def test_a_window_bounds_the_cache_and_forgets_what_left_it():
    layer, x = make(window=4), draw(64, rows=2)
    state = None
    for t in range(0, 64, 8):
        mask = torch.arange(8) < torch.tensor([[8], [1]])  # row 1 advances eight times slower
        _, state = layer(x[:, t : t + 8], state, mask)
        assert state.context["k"].shape[1] <= 4
    assert state.context["positions"].tolist() == [[61, 62, 63, 64], [5, 6, 7, 8]]


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="num_heads 4 does not split dim 12"):
        Attention(12, 4)
    with pytest.raises(ValueError, match="window 0"):
        Attention(12, 2, window=0)
