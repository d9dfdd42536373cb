"""Reading with learning: one result for any cut, and every tensor within reach of the outer gradient."""

import math
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.learn import NotFiniteError, learn_chunk, read
from everlearn.levels import Level
from everlearn.memory.state import ModelState
from everlearn.models import Decoder
from tests.models.test_decoder import LEVELS, make, same, tokens
from tests.tiny import KINDS

C = 4


def run(model: Decoder, ids, state=None, **options):
    state = state or model.initial_state(len(ids)).detach()
    return read(model, ids, state, chunk_size=C, **options)


def assert_same_state(a: ModelState, b: ModelState) -> None:
    assert set(a.memory) == set(b.memory)
    for layer, parts in a.memory.items():
        for leaf, value in parts.items():
            same(value, b.memory[layer][leaf])
    assert a.tokens_seen.tolist() == b.tokens_seen.tolist()


def literal(model: Decoder, ids: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Chunk by chunk for one row with the parameters themselves: a copy of the model is stepped by hand."""
    copy = deepcopy(model)
    total = {name: torch.zeros_like(p) for name, p in copy.named_parameters()}
    context, nll = None, []
    for n in range((len(ids) - 1) // C):
        logits, context = copy(ids[None, n * C : n * C + C], context)
        context = context.detach()
        loss = F.cross_entropy(logits[0], ids[n * C + 1 : n * C + C + 1], reduction="none")
        nll.append(loss.detach())
        copy.zero_grad()
        loss.sum().backward()
        for i in range(model.config.num_layers):
            for level in LEVELS:
                for part in ("gate", "up", "down"):
                    name = f"blocks.{i}.mlp.mlps.{level.name}.{part}.weight"
                    weight = copy.get_parameter(name)
                    total[name] += weight.grad
                    if (n + 1) * C % level.update_period == 0:
                        mean = total[name] / level.update_period
                        weight.data -= level.eta * mean / max(1.0, float(mean.norm()))
                        total[name].zero_()
    return torch.cat(nll), dict(copy.named_parameters())


@pytest.mark.parametrize("name", KINDS)
def test_reading_is_eq_71_written_out(name):
    """[NL eq. 71] through a whole decoder, with the clip, against a model whose parameters are stepped by hand."""
    model, ids = make(name), tokens(2, 4 * C + 1)
    report, state = run(model, ids)
    for row in range(2):
        nll, parameters = literal(model, ids[row])
        same(report.nll[row, 1:], nll)
        for layer in model.memories():
            for level in LEVELS:
                for part in ("gate", "up", "down"):
                    expected = parameters[f"{layer}.mlps.{level.name}.{part}.weight"]
                    same(state.memory[layer][f"{level.name}.{part}"][row], expected)
    assert report.steps["fast"].tolist() == [4, 4]
    assert report.steps["slow"].tolist() == [2, 2]


@pytest.mark.parametrize("name", KINDS)
def test_learning_helps_on_a_repeated_text(name):
    model = make(name)
    ids = tokens(1, 12).repeat(1, 14)
    report, _ = run(model, ids)
    frozen = F.cross_entropy(model(ids[:, :-1])[0][0], ids[0, 1:], reduction="none").detach()
    assert report.nll[0, -36:].mean() < 0.6 * frozen[-36:].mean()


@pytest.mark.parametrize("name", KINDS)
def test_any_cut_and_token_by_token_give_the_same(name):
    model, ids = make(name), tokens(2, 14)
    whole, end = run(model, ids)
    # at the edges of chunks of 4, beside them, and where both levels have stepped
    for cut in (1, 4, 5, 7, 9, 13):
        first, state = run(model, ids[:, :cut])
        second, state = run(model, ids[:, cut:], state)
        torch.testing.assert_close(
            torch.cat([first.nll, second.nll], 1), whole.nll, atol=1e-10, rtol=1e-10, equal_nan=True
        )
        assert_same_state(state, end)
    state, nll = None, []
    for t in range(14):
        report, state = run(model, ids[:, t : t + 1], state)
        nll.append(report.nll)
    torch.testing.assert_close(torch.cat(nll, 1), whole.nll, atol=1e-10, rtol=1e-10, equal_nan=True)
    assert_same_state(state, end)


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_ragged_padded_rows_learn_as_if_alone(name, data):
    model = make(name)
    width = data.draw(st.integers(1, 14))
    mask = torch.tensor(
        data.draw(st.lists(st.lists(st.booleans(), min_size=width, max_size=width), min_size=2, max_size=3))
    )
    ids = tokens(*mask.shape)
    end = data.draw(st.sampled_from(["open", "flush", "drop"]))
    report, state = run(model, ids, mask=mask, end=end)
    assert bool(report.nll[~mask].isnan().all())
    more = tokens(len(mask), 6, seed=3)
    after, _ = run(model, more, state)
    for row, real in enumerate(mask):
        alone, own = run(model, ids[row][real][None], end=end)
        torch.testing.assert_close(report.nll[row][real], alone.nll[0], atol=1e-10, rtol=1e-10, equal_nan=True)
        follow, _ = run(model, more[row][None], own)
        torch.testing.assert_close(after.nll[row], follow.nll[0], atol=1e-10, rtol=1e-10, equal_nan=True)


@pytest.mark.parametrize("name", KINDS)
def test_another_rows_content_changes_no_bit(name):
    model, ids = make(name), tokens(2, 18)
    other = ids.clone()
    other[1] = (other[1] + 3) % 11
    a, b = run(model, ids)[0].nll, run(model, other)[0].nll
    assert torch.equal(a[0, 1:], b[0, 1:])
    assert not torch.equal(a[1, 1:], b[1, 1:])


@pytest.mark.parametrize("name", KINDS)
def test_reading_without_learning_leaves_the_weights_alone_and_scores_like_forward(name):
    model, ids = make(name), tokens(2, 17)
    report, state = run(model, ids, learn=False)
    fresh = model.initial_state(2)
    for layer in model.memories():
        for leaf, value in fresh.memory[layer].items():
            assert torch.equal(state.memory[layer][leaf], value)
    expected = F.cross_entropy(model(ids[:, :-1])[0].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    same(report.nll[:, 1:].flatten(), expected.detach())


def test_empty_text_and_eta_zero_are_the_identity():
    model = make("delta_net")
    _, state = run(model, tokens(2, 9))
    report, again = run(model, tokens(2, 0), state)
    assert report.nll.shape == (2, 0)
    for layer, parts in state.memory.items():
        assert all(torch.equal(value, again.memory[layer][leaf]) for leaf, value in parts.items())
    still = model.with_levels([Level("fast", 4, 0.0), Level("slow", 8, 0.0)])
    _, state = run(still, tokens(2, 9))
    for layer in still.memories():
        for leaf in ("fast.up", "slow.down"):
            assert torch.equal(state.memory[layer][leaf], still.initial_state(2).memory[layer][leaf])


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("levels", [(), LEVELS], ids=["mlp", "cms"])
def test_every_parameter_gets_a_gradient_from_the_last_chunk(name, levels):
    """Three chunks and five tokens, loss on the last ones only: nothing is cut off from the outer gradient."""
    model, ids = make(name, levels), tokens(2, 3 * C + 5 + 1)
    state = model.initial_state(2)
    _, state = read(model, ids[:, : 3 * C + 1], state, chunk_size=C, differentiable=True)
    last = ids[:, 3 * C :]
    report, _ = learn_chunk(model, last, state, differentiable=True)
    report.nll.sum().backward()
    for label, parameter in model.named_parameters():
        assert parameter.grad is not None, label
        assert math.isfinite(norm := float(parameter.grad.norm())) and norm > 1e-8, (label, norm)


@pytest.mark.parametrize("name", KINDS)
def test_the_learned_start_is_reached_through_the_writes(name):
    """With the start's direct read cut off, its gradient comes through what was written on top of it."""
    model, ids = make(name), tokens(2, 3 * C + 6)
    start = model.initial_state(2)
    _, written = read(model, ids[:, : 3 * C + 1], start, chunk_size=C, differentiable=True)
    weights = [written.memory[layer][leaf] for layer in model.memories() for leaf in ("fast.up", "slow.down")]
    assert all(w.requires_grad for w in weights)
    report, _ = learn_chunk(model, ids[:, 3 * C :], written.map(lambda t: t), differentiable=True)
    grads = torch.autograd.grad(report.nll.sum(), weights, retain_graph=True)
    starts = [
        p
        for n, p in model.named_parameters()
        if ".mlps." in n and n.split(".")[-3:-1] in (["fast", "up"], ["slow", "down"])
    ]
    reached = torch.autograd.grad(weights, starts, [g.detach() for g in grads])
    for grad in reached:
        assert float(grad.norm()) > 1e-8


def test_a_chunk_that_is_not_finite_is_refused_and_changes_nothing():
    model = make("delta_net")
    _, state = run(model, tokens(1, 9))
    before = {leaf: value.clone() for leaf, value in state.memory["blocks.0.mlp"].items()}
    with torch.no_grad():
        model.embedding.weight[5] = math.nan
    with pytest.raises(NotFiniteError, match="nothing was learned"):
        run(model, torch.full((1, 9), 5), state)
    assert all(torch.equal(state.memory["blocks.0.mlp"][leaf], value) for leaf, value in before.items())


def test_repetition_does_not_blow_up():
    """The blow-up test: one token 600 times, in float32, with large steps."""
    model = make("delta_net", [Level("fast", 4, 1.0), Level("slow", 16, 1.0)]).float()
    report, state = run(model, torch.full((1, 600), 7))
    assert bool(report.nll[0, 1:].isfinite().all())
    assert (
        max(float(t.abs().max()) for parts in state.memory.values() for t in parts.values() if t.is_floating_point())
        < 100
    )


def test_the_last_chunk_is_read_once_and_scored_before_it_is_learned_from():
    model, ids = make("transformer++"), tokens(2, 3 * C + 3)
    calls = []
    hook = model.register_forward_hook(lambda *_: calls.append(1))
    flushed, _ = run(model, ids, end="flush")
    hook.remove()
    assert len(calls) == 3 + 1
    opened, _ = run(model, ids, end="open")
    torch.testing.assert_close(flushed.nll, opened.nll, atol=1e-12, rtol=0, equal_nan=True)
