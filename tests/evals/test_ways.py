"""The baselines: each against its own definition or torch's optimizer, and none touches the model that it is given."""

import copy
from functools import partial

import pytest
import torch

from everlearn.evals.lora import LowRankLinear, add_low_rank
from everlearn.evals.ways import Adam, ClippedDescent, Frozen, Steps, every_weight, fisher, named
from everlearn.evals.windows import Window, hf_logits, learn, score
from tests.evals.tiny_llama import tiny_llama

WINDOW = Window(8, 4)
IDS = torch.arange(41) % 7


def dynamic(model, **options):
    return Steps(model, WINDOW, every_weight, lambda p: ClippedDescent(p, **options))


def test_dynamic_evaluation_is_torch_sgd_where_no_gradient_is_clipped():
    model, reference = tiny_llama(), tiny_llama()
    way = dynamic(model, eta=0.1, max_norm=1e9)
    sgd = torch.optim.SGD(reference.parameters(), lr=0.1)

    def step(loss):
        sgd.zero_grad()
        loss.backward()
        sgd.step()

    torch.testing.assert_close(
        way.read(IDS), learn(partial(hf_logits, reference), IDS, WINDOW, step), atol=1e-12, rtol=0
    )
    for ours, theirs in zip(way.model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


def test_no_tensor_moves_further_than_eta_times_the_bound():
    way = dynamic(tiny_llama(), eta=0.5, max_norm=0.01)
    before = [p.detach().clone() for p in way.learned]
    way.read(IDS[:5])
    moved = [(p - b).norm().item() for p, b in zip(way.learned, before, strict=True)]
    assert max(moved) == pytest.approx(0.005, rel=1e-9)


def test_reading_leaves_the_given_model_and_another_way_alone():
    model = tiny_llama()
    before = copy.deepcopy(model.state_dict())
    one, other = dynamic(model, eta=0.5), dynamic(model, eta=0.5)
    first = one.read(IDS)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert torch.equal(other.read(IDS), first)
    assert (one.score(IDS) - Frozen(model, WINDOW).score(IDS)).mean() < -0.1
    scored = one.score(IDS)
    assert torch.equal(one.score(IDS), scored)


def test_only_the_named_weights_learn():
    way = Steps(tiny_llama(), WINDOW, named("1.mlp.down_proj.weight"), lambda p: ClippedDescent(p, eta=0.5))
    before = copy.deepcopy(way.model.state_dict())
    way.read(IDS)
    changed = [name for name, value in way.model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["model.layers.1.mlp.down_proj.weight"]
    assert way.state_bytes() == 8 * 8 * 12
    with pytest.raises(ValueError, match=r"no parameter's name ends with one of \['none'\]"):
        Steps(tiny_llama(), WINDOW, named("none"), lambda p: ClippedDescent(p, eta=0.5))


def test_low_rank_starts_as_the_identity_and_its_adam_is_torchs():
    model = tiny_llama()
    way = Steps(model, WINDOW, lambda m: add_low_rank(m, 2), lambda p: Adam(p, eta=0.01))
    assert torch.equal(hf_logits(way.model, IDS[None]), hf_logits(model, IDS[None]))
    layers = [m for m in way.model.modules() if isinstance(m, LowRankLinear)]
    assert len(layers) == 2 * 7
    assert way.state_bytes() == sum(8 * 2 * (m.base.in_features + m.base.out_features) for m in layers)
    start = [m.up.detach().clone() for m in layers]
    way.read(IDS[:5])
    # Adam's first step moves every weight with a gradient by its rate
    assert max((m.up - s).abs().max().item() for m, s in zip(layers, start, strict=True)) == pytest.approx(
        0.01, rel=1e-3
    )
    frozen = dict(model.named_parameters())
    assert all(torch.equal(m.base.weight, w) for m, w in zip(layers, _weights(frozen, layers), strict=True))


def _weights(frozen, layers):
    matrices = [w for name, w in frozen.items() if "proj" in name]
    assert len(matrices) == len(layers)
    return matrices


def test_a_low_rank_layer_by_hand():
    """W = [[1, 0]], B A = [[2], ] [[0, 3]] / 1: y = x1 + (4 / 1) 2 * 3 x2."""
    base = torch.nn.Linear(2, 1, bias=False)
    base.weight.data = torch.tensor([[1.0, 0.0]])
    layer = LowRankLinear(base, rank=1, scale=4.0)
    layer.down.data, layer.up.data = torch.tensor([[0.0, 3.0]]), torch.tensor([[2.0]])
    assert layer(torch.tensor([[5.0, 7.0]])).item() == 5 + 4 * 2 * 3 * 7


def test_the_proximal_step_minimises_the_penalised_objective():
    """d/dw of strength/2 F (w - w0)^2 + (w - w')^2 / (2 eta) is zero at the new weight."""
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    importance, eta, strength = torch.tensor([0.5, 3.0], dtype=torch.float64), 0.2, 1.7
    step = ClippedDescent([weight], eta=eta, max_norm=1e9, fisher=[importance], strength=strength)
    start = weight.detach().clone()
    gradient = torch.tensor([1.0, 2.0], dtype=torch.float64)
    step((weight * gradient).sum())
    plain = start - eta * gradient
    slope = strength * importance * (weight.detach() - start) + (weight.detach() - plain) / eta
    torch.testing.assert_close(slope, torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0)


def test_the_fisher_is_the_mean_square_of_chunk_gradients_scaled_to_mean_one():
    model = tiny_llama()
    parameters = list(model.parameters())
    total = [torch.zeros_like(p) for p in parameters]
    for first, start, end in WINDOW.spans(len(IDS)):
        logits = hf_logits(model, IDS[None, first:end])[0, start - first :]
        loss = torch.nn.functional.cross_entropy(logits, IDS[start + 1 : end + 1])
        for t, g in zip(total, torch.autograd.grad(loss, parameters), strict=True):
            t += g**2
    ours = fisher(model, IDS, WINDOW, parameters)
    flat = torch.cat([t.flatten() for t in total])
    torch.testing.assert_close(torch.cat([f.flatten() for f in ours]), flat / flat.mean(), atol=1e-9, rtol=1e-9)


def test_replay_learns_again_from_what_was_read():
    """With certainty, and one stored window, a step's gradient is the sum of the two."""
    ids = torch.arange(9) % 7
    losses = []
    way = Steps(tiny_llama(), Window(8, 8), every_weight, lambda p: losses.append, replay=1.0)
    way.read(ids)
    way.read(ids)
    alone = score(partial(hf_logits, way.model), ids, Window(8, 8)).mean()
    assert [loss.item() for loss in losses] == pytest.approx([float(alone), 2 * float(alone)], rel=1e-9)
