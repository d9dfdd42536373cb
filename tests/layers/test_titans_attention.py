"""Titans' three ways to put a memory beside attention, written out token by token.  [Titans eq. 19-31]"""

import pytest
import torch

from everlearn.layers import Attention, MemoryAsContext, MemoryAsGate, MemoryAsLayer
from everlearn.layers.attention import rotate
from everlearn.levels import describe
from everlearn.memory.state import LayerState
from everlearn.models import Decoder, preset
from tests.layers.test_titans import extremes

DIM, HEADS, WINDOW, PERSISTENT = 12, 3, 5, 3
TOLERANCE = 1e-10  # float64: the same sums in another order
MIXERS = {
    "context": lambda: MemoryAsContext(DIM, HEADS, segment_size=WINDOW, num_persistent=PERSISTENT),
    "gate": lambda: MemoryAsGate(DIM, HEADS, window=WINDOW, num_persistent=PERSISTENT, chunk_size=4),
    "layer": lambda: MemoryAsLayer(DIM, HEADS, window=WINDOW, num_persistent=PERSISTENT, chunk_size=4),
}
EACH = pytest.mark.parametrize("make", MIXERS.values(), ids=MIXERS)


def build(make) -> torch.nn.Module:
    """A mixer in float64 whose norms are not all alike."""
    torch.manual_seed(0)
    layer = make().double()
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return layer


def tokens(length: int = 17) -> torch.Tensor:
    return torch.randn(1, length, DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def attend(layer: Attention, x: torch.Tensor, window: int | None) -> torch.Tensor:
    """One row, [T, dim], query by query: a softmax over the persistent tokens and the window."""
    size = layer.dim // layer.num_heads
    plain, k, v = (x @ layer.qkv.weight.T).view(1, len(x), 3, layer.num_heads, size).unbind(2)
    places = torch.arange(len(x))[None]
    q, k = rotate(plain, places, layer.rope_base)[0], rotate(k, places, layer.rope_base)[0]
    p = x[:0] if layer.persistent is None else layer.persistent
    _, p_k, p_v = (p @ layer.qkv.weight.T).view(len(p), 3, layer.num_heads, size).unbind(1)
    y = []
    for t in range(len(x)):
        seen = slice(0 if window is None else max(0, t + 1 - window), t + 1)
        far = torch.einsum("hd,phd->ph", plain[0, t], p_k)
        near = torch.einsum("hd,shd->sh", q[t], k[seen])
        shares = (torch.cat([far, near]) / size**0.5).softmax(0)
        y.append(torch.einsum("sh,shd->hd", shares, torch.cat([p_v, v[0, seen]])).flatten())
    return torch.stack(y) @ layer.out.weight.T


def gated(layer, attended: torch.Tensor, remembered: torch.Tensor) -> torch.Tensor:
    def norm(x, weight):
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    memory = norm(remembered, layer.gate.memory_norm.weight)
    return norm(attended, layer.gate.attention_norm.weight) * memory * torch.sigmoid(memory)


@pytest.mark.parametrize("window", [None, WINDOW])
@pytest.mark.parametrize("persistent", [0, PERSISTENT])
def test_attention_sees_the_persistent_tokens_from_everywhere(window, persistent):
    """[p_1 .. p_P] || x, however far the window has gone.  [Titans eq. 19, 26]"""
    layer, x = build(lambda: Attention(DIM, HEADS, window=window, num_persistent=persistent)), tokens()
    assert torch.allclose(layer(x)[0][0], attend(layer, x[0], window), rtol=0, atol=TOLERANCE)


def test_what_is_read_from_persistent_tokens_is_a_feed_forward_layer_with_softmax():
    """FFN(x) = W_V softmax(W_K x), mixed with the token's own value by their shares of the scores.  [Titans eq. 20]"""
    layer, x = build(lambda: Attention(DIM, 1, num_persistent=PERSISTENT)), tokens(1)
    w_q, w_k, w_v = layer.qkv.weight.split(DIM)
    keys, values = layer.persistent @ w_k.T, (layer.persistent @ w_v.T).T  # W_K [P, dim], W_V [dim, P]
    query = w_q @ x[0, 0] / DIM**0.5
    feed_forward = values @ torch.softmax(keys @ query, 0)
    own, theirs = (w_k @ x[0, 0] @ query).exp(), (keys @ query).exp().sum()
    want = (own * (w_v @ x[0, 0]) + theirs * feed_forward) / (own + theirs)
    assert torch.allclose(layer(x)[0][0, 0], layer.out.weight @ want, rtol=0, atol=TOLERANCE)


def test_memory_as_a_gate_is_its_equations():
    """x~ = p || x, y = SW-Attn*(x~), o = y * M(x~).  [Titans eq. 26-28]"""
    layer, x = build(MIXERS["gate"]), tokens()
    remembered, _ = layer.memory(torch.cat([layer.attention.persistent[None], x], 1))
    want = gated(layer, attend(layer.attention, x[0], WINDOW), remembered[0, PERSISTENT:])
    assert torch.allclose(layer(x)[0][0], want, rtol=0, atol=TOLERANCE)


def test_memory_as_a_layer_is_its_equations():
    """x~ = p || x, y = M(x~), o = SW-Attn(y).  [Titans eq. 29-31]"""
    layer, x = build(MIXERS["layer"]), tokens()
    y, _ = layer.memory(torch.cat([layer.persistent[None], x], 1))
    want = attend(layer.attention, y[0], WINDOW)[PERSISTENT:]
    assert torch.allclose(layer(x)[0][0], want, rtol=0, atol=TOLERANCE)


def test_memory_as_context_is_its_equations():
    """Segment by segment: recall, attend, write what attention gave, and let the memory gate it.  [Titans eq. 21-25]"""
    layer, x, state, got = build(MIXERS["context"]), tokens(), None, []
    for segment in x.split(WINDOW, 1):
        before = layer.memory.initial_state(1) if state is None else state
        h = layer.memory.retrieve(segment @ layer.queries.weight.T, before)  # eq. 21: not written
        beside = torch.stack([h[0], segment[0]], 1).flatten(0, 1)  # eq. 22, each token after its own recall
        y = attend(layer.attention, beside, None)[1::2]  # eq. 23
        m, state = layer.memory(y[None], state)  # eq. 24
        got.append(gated(layer, y, m[0]))  # eq. 25
    assert torch.allclose(layer(x)[0][0], torch.cat(got), rtol=0, atol=TOLERANCE)


def test_the_memory_reaches_where_attention_does_not():
    """A token that no window and no segment holds any more still changes what is read, through the memory alone."""
    x = tokens(40)
    other = x.clone()
    other[:, 0] = -other[:, 0]
    for make in MIXERS.values():
        layer = build(make)
        assert (layer(x)[0] - layer(other)[0])[:, 30:].abs().max() > 1e-6


@EACH
def test_a_fresh_state_and_an_ended_document_read_like_none(make):
    layer, x = build(make), tokens(30)
    want, _ = layer(x[:, :12])
    assert torch.allclose(layer(x[:, :12], layer.initial_state(1))[0], want, rtol=0, atol=TOLERANCE)
    _, state = layer(x[:, 12:].expand(2, -1, -1))
    ended = layer.tick(state, "document", torch.tensor([True, False]))
    y, _ = layer(x[:, :12].expand(2, -1, -1), LayerState(ended.memory))
    assert torch.allclose(y[:1], want, rtol=0, atol=TOLERANCE) and (y[1:] - want).abs().max() > 1e-6
    assert layer.tick(state, "turn").memory.keys() == state.memory.keys()
    everywhere = layer.tick(state, "document")
    assert torch.allclose(layer(x[:, :12], LayerState({n: t[1:] for n, t in everywhere.memory.items()}))[0], want)


@EACH
def test_a_new_segment_keeps_the_memory_and_drops_what_attention_saw(make):
    """In the middle of a chunk: the open chunk goes on, and nothing that was learned is cut off."""
    layer, x = build(make), tokens(30)
    _, state = layer(x[:, :17])
    y, end = layer(x[:, 17:], LayerState(state.memory))
    want, same = layer(x[:, 17:], state)
    assert (y - want).abs().max() > 1e-6 and (y - layer(x[:, 17:])[0]).abs().max() > 1e-6
    assert torch.equal(end.memory["memory.filled"], same.memory["memory.filled"])


@pytest.mark.parametrize("name", ["titans_mac", "titans_mag", "titans_mal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [1024, pytest.param(16384, marks=pytest.mark.slow)])
def test_finite_over_thousands_of_tokens_whatever_they_are(name, dtype, length):
    """In pieces of 512."""
    torch.manual_seed(0)
    layer, state = Decoder(preset(name, dim=16, num_heads=2)).blocks[0].mixer.to(dtype), None
    with torch.no_grad():
        for piece in extremes(length, 16, dtype).split(512, 1):
            y, state = layer(piece, state)
            assert y.isfinite().all() and all(t.isfinite().all() for t in state.memory.values())


def test_what_a_row_carries_in_a_preset_is_what_describe_counts():
    for name, tokens_read in (("titans_lmm", 20), ("titans_mag", 64), ("titans_mal", 60)):
        model = Decoder(preset(name, dim=16, num_heads=2, num_layers=2))
        _, state = model(torch.zeros(1, tokens_read, dtype=torch.long))
        parts = [*state.memory.values(), *state.context.values()]
        held = sum(t.nbytes for tensors in parts for t in tensors.values())
        system = describe(model, context=64)
        assert system.state_bytes == held, name
        assert system.parameters == sum(p.numel() for p in model.parameters())
        assert system.levels[0].title == "every token"


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="segment_size 0 is below 1"):
        MemoryAsContext(DIM, HEADS, segment_size=0)
    for kind in (MemoryAsGate, MemoryAsLayer):
        with pytest.raises(ValueError, match="num_persistent 6 does not fit a window of 5"):
            kind(DIM, HEADS, window=5, num_persistent=6)
        with pytest.raises(ValueError, match="num_persistent 0 does not fit a window of None"):
            kind(DIM, HEADS, window=None, num_persistent=0)
    with pytest.raises(ValueError, match="num_persistent -1 is below 0"):
        Attention(DIM, HEADS, num_persistent=-1)
    with pytest.raises(ValueError, match="window is None, but the attention of titans_mac"):
        Decoder(preset("titans_mac", window=None))
