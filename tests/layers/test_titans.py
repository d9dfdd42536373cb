"""The Titans memory as a layer: its parts against the equations, what keeps it bounded, and recall.  [Titans eq. 11]"""

import pytest
import torch
import torch.nn.functional as F

from everlearn.layers import TitansMemory
from everlearn.levels import describe
from everlearn.memory.state import LayerState
from everlearn.ops.titans.naive import titans
from tests.layers.tagger_fixture import Tagger, accuracy, recall, train

DIM, HEADS = 12, 3
DEPTHS = pytest.mark.parametrize("depth", [1, 2])


def literal(layer: TitansMemory, x: torch.Tensor) -> torch.Tensor:
    """One row: projections, convolution, gates and norms written out, the recurrence token by token."""
    size, kernel = DIM // HEADS, layer.conv
    inputs = F.pad(x @ layer.qkv.weight.T, (0, 0, layer.conv_width - 1, 0))
    mixed = torch.stack([(inputs[t : t + layer.conv_width] * kernel).sum(0) for t in range(len(x))])
    parts = (mixed * torch.sigmoid(mixed)).view(1, len(x), 3, HEADS, size)
    q, k, v = (parts / (parts.square().sum(-1, keepdim=True) + 1e-6).sqrt()).unbind(2)
    logits = torch.sigmoid(x @ layer.gates.weight.T + layer.gates.bias)[None]
    eta, alpha = logits[..., :HEADS] / layer.chunk_size, logits[..., HEADS : 2 * HEADS]
    beta = logits[..., 2 * HEADS :] if layer.momentum else None
    start = list(layer.init_weights) or [x.new_zeros(HEADS, size, size)]
    options = {"chunk_size": layer.chunk_size, "to_start": True, "max_norm": 2.0}
    if beta is None:
        y, _, _ = titans(q, k, v, eta, alpha.log(), None, start, **options)
    else:
        y, _, _ = titans(q, k, v, (1 - beta) * eta, alpha.log(), beta.log(), start, **options)
    y = y[0] / (y[0].square().mean(-1, keepdim=True) + 1e-5 / layer.chunk_size**2).sqrt() * layer.norm.weight
    return y.flatten(1) @ layer.out.weight.T


@pytest.mark.parametrize("momentum", [True, False])
@DEPTHS
def test_equals_the_equations_written_out(depth, momentum):
    """[Titans eq. 9-15] with the projections of [Titans eq. 11]."""
    torch.manual_seed(0)
    layer = TitansMemory(DIM, HEADS, chunk_size=7, depth=depth, momentum=momentum).double()
    with torch.no_grad():
        layer.norm.weight.uniform_(0.5, 1.5)
        layer.gates.weight.mul_(20)
    x = torch.randn(1, 40, DIM, dtype=torch.float64)
    assert torch.allclose(layer(x)[0][0], literal(layer, x[0]), rtol=0, atol=1e-11)


def test_decoding_token_by_token_is_the_full_pass_in_float32():
    torch.manual_seed(0)
    layer, x, state = TitansMemory(64, 2), torch.randn(1, 200, 64), None
    with torch.no_grad():
        y, _ = layer(x)
        for t in range(200):
            step, state = layer(x[:, t : t + 1], state)
            assert torch.allclose(step, y[:, t : t + 1], rtol=0, atol=1e-5)  # float32 class


def test_what_a_row_carries_is_named_and_counted():
    layer = TitansMemory(DIM, HEADS, chunk_size=4, depth=2, hidden_dim=6)
    _, state = layer(torch.randn(2, 6, DIM))
    pairs = {f"{part}{n}": size for part in ("M", "anchor", "S") for n, size in ((1, (6, 4)), (2, (4, 6)))}
    want = {name: (2, HEADS, *size) for name, size in pairs.items()} | {"filled": (2,)}
    assert {name: tuple(t.shape) for name, t in state.memory.items()} == want
    assert state.memory["filled"].tolist() == [2, 2]
    # what describe names, in bytes, is what a real state holds
    held = sum(t.nbytes for part in (state.memory, state.context) for t in part.values())
    system = describe(layer)
    assert 2 * system.state_bytes == held
    assert system.parameters == sum(p.numel() for p in layer.parameters())
    kinds = {c.kind: c for c in system.components}
    assert kinds["MLP memory of 2 layers"].update_period == 1


@pytest.mark.parametrize("momentum", [True, False])
def test_the_steps_of_a_chunk_add_up_to_at_most_one(momentum):
    """Whatever the gates are: sum over a chunk of each token's share of the memory at its end, times its step."""
    torch.manual_seed(0)
    layer = TitansMemory(DIM, HEADS, chunk_size=8, momentum=momentum).double()
    x = 30 * torch.randn(1, 8, DIM, dtype=torch.float64)
    eta, log_alpha, log_beta = layer._gates(x)
    ones = torch.ones(1, 8, HEADS, 1, dtype=torch.float64)
    # a memory of one number from one key: M_8 is what the steps add up to, less what was forgotten
    start = [torch.zeros(HEADS, 1, 1, dtype=torch.float64)]
    y, _, _ = titans(ones, ones, ones, eta, torch.zeros_like(log_alpha), log_beta, start, chunk_size=8)
    assert 0 < y.max() <= 1 and eta.max() <= 1 / 8
    assert layer._gates(torch.full_like(x, -1e4))[0].isfinite().all()


def test_surprise_is_told_and_a_known_pair_surprises_less():
    """A key with the same value, again and again, and then with another one."""
    torch.manual_seed(0)
    layer = TitansMemory(DIM, HEADS, chunk_size=4, conv_width=1)
    known, other = torch.randn(2, 1, 1, DIM)
    state = None
    _, first, state = layer.write(known.expand(1, 40, DIM))
    _, again, _ = layer.write(known, state)
    _, new, _ = layer.write(other, state)
    assert torch.allclose(first[:, :4], torch.ones(1, 4, HEADS), atol=1e-5)  # an empty memory: |v| |k| = 1
    assert again.max() < 0.2 and new.min() > 2 * again.max()
    assert not first.requires_grad


def test_what_is_retrieved_is_the_memory_before_the_open_chunk():
    torch.manual_seed(0)
    layer = TitansMemory(DIM, HEADS, chunk_size=4)
    x, queries = torch.randn(1, 10, DIM), torch.randn(1, 5, DIM)
    _, closed = layer(x[:, :8])
    _, open_chunk = layer(x[:, 8:], closed)
    got = layer.retrieve(queries, open_chunk)
    assert torch.equal(got, layer.retrieve(queries, closed))
    heads = F.normalize(F.silu(queries).view(1, 5, HEADS, 4), dim=-1)
    read = torch.einsum("bhvd,bthd->bthv", closed.memory["M1"], heads)
    assert torch.allclose(got, layer.out(layer.norm(read).flatten(2)), atol=1e-5)


@DEPTHS
def test_a_document_ends_with_the_start_in_the_rows_it_concerns(depth):
    torch.manual_seed(0)
    layer = TitansMemory(DIM, HEADS, chunk_size=4, depth=depth)
    _, state = layer(torch.randn(2, 6, DIM))
    ended = layer.tick(state, "document", torch.tensor([True, False]))
    start = layer.initial_state(1).memory
    for name, tensor in ended.memory.items():
        assert torch.equal(tensor[0], start[name][0]) and torch.equal(tensor[1], state.memory[name][1])
    everywhere = layer.tick(state, "document").memory
    assert all(torch.equal(tensor[1], start[name][0]) for name, tensor in everywhere.items())
    assert layer.tick(state, "turn") is state and layer.tick(LayerState(), "document").memory == {}


def extremes(length: int, dim: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Rows of random, repeated and zero tokens, and of the largest that a norm lets through, with either sign."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(length, dim, generator=generator)
    most = dim**0.5 * torch.eye(dim)[0].expand(length, dim)
    return torch.stack([noise, noise[:1].expand_as(noise), 0 * noise, most, most * noise[:, :1].sign()]).to(dtype)


@pytest.mark.parametrize(("dtype", "chunk_size"), [(torch.float32, 16), (torch.bfloat16, 64)])
@pytest.mark.parametrize("gates", ["as they start", "open"])
@DEPTHS
def test_finite_over_thousands_of_tokens_whatever_they_are(depth, gates, dtype, chunk_size):
    """4,096 tokens, with gates that forget, and with gates that keep everything and take the longest steps."""
    torch.manual_seed(0)
    layer = TitansMemory(16, 2, depth=depth, chunk_size=chunk_size).to(dtype)
    if gates == "open":
        with torch.no_grad():
            layer.gates.weight.zero_()
            layer.gates.bias.copy_(torch.tensor([20.0, 20.0, 20.0, 20.0, 0.0, 0.0]))
    with torch.no_grad():
        y, surprise, state = layer.write(extremes(4096, 16, dtype))
    assert y.isfinite().all() and all(t.isfinite().all() for t in state.memory.values())
    norms = torch.stack([state.memory[f"M{n}"].flatten(1).norm(dim=1) for n in range(1, depth + 1)])
    assert norms.max() < 50
    if depth == 1:
        assert surprise.max() <= 2.0  # so the bound on a gradient's length never acts


@DEPTHS
def test_gradients_stay_finite_over_a_thousand_tokens(depth):
    torch.manual_seed(0)
    layer, x = TitansMemory(16, 2, depth=depth), extremes(1024, 16).requires_grad_()
    layer(x)[0][:, -8:].square().sum().backward()
    assert x.grad.isfinite().all()
    for name, parameter in layer.named_parameters():
        assert parameter.grad.isfinite().all() and 1e-8 < parameter.grad.norm() < 1e6, name


@pytest.mark.slow
def test_finite_over_a_million_tokens():
    torch.manual_seed(0)
    layer, x, state = TitansMemory(8, 1), extremes(8000, 8), None
    with torch.no_grad():
        for _ in range(125):
            y, state = layer(x, state)
            assert y.isfinite().all()
    assert state.memory["M1"].norm() < 50


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="num_heads 5 does not divide dim 12"):
        TitansMemory(12, 5)
    for name in ("chunk_size", "depth", "conv_width", "hidden_dim"):
        with pytest.raises(ValueError, match=f"{name} 0 is below 1"):
            TitansMemory(12, 3, **{name: 0})
    layer, deep = TitansMemory(DIM, HEADS), TitansMemory(DIM, HEADS, depth=2)
    _, state = layer(torch.randn(1, 5, DIM))
    with pytest.raises(ValueError, match="the state holds"):
        deep(torch.randn(1, 5, DIM), state)


@pytest.mark.slow
def test_sixteen_keys_are_recalled_in_context():
    """The setting of the delta memory's own test: 220 steps on 64 tokens, three seeds."""
    scores = {"matrix": [], "mlp": []}
    for seed in range(3):
        for name, options in (("matrix", {}), ("mlp", {"depth": 2})):
            torch.manual_seed(seed)
            model = Tagger(TitansMemory(64, 2, **options), 32, 16)
            generator = train(model, recall, 64, rows=16, steps=220, lr=1e-2, seed=seed)
            scores[name].append(accuracy(model, recall, 64, generator))
    print("recall of 16 keys:", scores)
    assert sum(score >= 0.98 for score in scores["matrix"]) >= 2, scores
    assert sum(score >= 0.95 for score in scores["mlp"]) >= 2, scores
