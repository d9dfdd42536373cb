"""The Continuum Memory System against summed autograd gradients.  [NL eq. 70-73]"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.layers.cms import CMS
from everlearn.layers.mlp import SwiGLU
from everlearn.levels import Level
from everlearn.memory.state import LayerState
from everlearn.rules import gd, momentum

DIM, HIDDEN, ROWS = 6, 5, 3


def make(levels, **options) -> CMS:
    torch.manual_seed(0)
    return CMS(DIM, HIDDEN, levels, **options).double()


def learn(cms: CMS, state: LayerState, x: torch.Tensor, target: torch.Tensor, tokens: torch.Tensor | None = None):
    """One chunk of the loss that every test uses: squared error of the output, mean over a row's tokens."""
    state = cms.track(state, len(x))
    y, _ = cms(x, state)
    loss = ((y - target) ** 2).sum(-1).mean(1).sum()
    grads = torch.autograd.grad(loss, list(cms.weights(state).values()))
    count = torch.full((len(x),), x.shape[1]) if tokens is None else tokens
    return cms.write(cms.accumulate(state, grads, count))


def literal(cms: CMS, levels, xs, targets, row: int, reduce: str) -> dict[str, dict[str, torch.Tensor]]:
    """Eq. 71 for one row, written out: no clip, no accumulation trick, gradients summed token by token."""
    theta = {lv.name: {p: w.detach().clone() for p, w in cms._start(lv.name, {}).items()} for lv in levels}
    total = {name: {p: torch.zeros_like(w) for p, w in parts.items()} for name, parts in theta.items()}
    seen = 0
    for x, target in zip(xs, targets, strict=True):
        for t in range(x.shape[1]):
            leaf = {n: {p: w.clone().requires_grad_() for p, w in parts.items()} for n, parts in theta.items()}
            y = x[row, t]
            for lv in levels:
                w = leaf[lv.name]
                y = y + w["down"] @ (torch.nn.functional.silu(w["gate"] @ y) * (w["up"] @ y))
            ((y - x[row, t] - target[row, t]) ** 2).sum().backward()
            for name, parts in leaf.items():
                for p, w in parts.items():
                    total[name][p] += w.grad
        seen += x.shape[1]
        for lv in levels:
            if lv.update_period != math.inf and seen % lv.update_period == 0:
                for p in theta[lv.name]:
                    scale = lv.update_period if reduce == "mean" else 1
                    theta[lv.name][p] -= lv.eta * total[lv.name][p] / scale
                    total[lv.name][p].zero_()
    return theta


@settings(max_examples=8, deadline=None)
@given(
    chunk=st.integers(1, 4),
    multiples=st.lists(st.integers(1, 5), min_size=3, max_size=4),
    chunks=st.integers(1, 12),
    seed=st.integers(0, 99),
    reduce=st.sampled_from(["mean", "sum"]),
)
def test_each_levels_update_is_its_summed_token_gradients(chunk, multiples, chunks, seed, reduce):
    """[NL eq. 71] for random periods and three or four levels."""
    levels = [Level(f"level{i}", chunk * m, eta=0.002 * (i + 1)) for i, m in enumerate(multiples)]
    cms = make(levels, chunk_size=chunk, max_norm=math.inf, reduce=reduce)
    torch.manual_seed(seed)
    xs, targets = torch.randn(2, chunks, ROWS, chunk, DIM, dtype=torch.double)
    state = LayerState()
    for x, target in zip(xs, targets, strict=True):
        state, _ = learn(cms, state, x, target)
    for row in range(ROWS):
        for name, parts in literal(cms, levels, xs, targets, row, reduce).items():
            for part, expected in parts.items():
                torch.testing.assert_close(state.memory[f"{name}.{part}"][row], expected, atol=1e-10, rtol=1e-10)


def test_a_level_is_bit_identical_between_its_updates():
    """[NL eq. 71] cadence: with chunks of 2, a period of 6 changes at every third write only."""
    cms = make([Level("fast", 2, 0.1), Level("slow", 6, 0.1)], chunk_size=2)
    state, last = LayerState(), None
    for n in range(1, 10):
        x, target = torch.randn(2, ROWS, 2, DIM, dtype=torch.double)
        state, updates = learn(cms, state, x, target)
        slow = state.memory["slow.up"]
        assert set(updates) == ({"fast", "slow"} if n % 3 == 0 else {"fast"})
        if last is not None:
            assert torch.equal(slow, last) == (n % 3 != 0)
        last = slow


def test_a_step_goes_downhill_with_the_clipped_length():
    cms = make([Level("only", 4, eta=0.01)], chunk_size=4)
    x, target = torch.randn(2, ROWS, 4, DIM, dtype=torch.double) * 3
    before = cms(x, LayerState())[0]
    state, updates = learn(cms, LayerState(), x, target)
    after = cms(x, state)[0]
    assert (((after - target) ** 2).mean((1, 2)) < ((before - target) ** 2).mean((1, 2))).all()
    assert (updates["only"].surprise > 1).all()
    for part, start in cms._start("only", {}).items():
        moved = (state.memory[f"only.{part}"] - start).flatten(1).norm(dim=1)
        torch.testing.assert_close(moved, torch.full_like(moved, 0.01))  # eta times the bound of 1


def test_surprise_is_the_norm_of_a_row_s_whole_gradient_and_0_where_nothing_was_due():
    """Over all tensors of the level and before the clip; tokens are counted in whole numbers."""
    cms = make([Level("a", 4, 0.3), Level("b", 8, 0.3)], chunk_size=4)
    x, target = torch.randn(2, ROWS, 4, DIM, dtype=torch.double)
    state = cms.track(LayerState(), ROWS)
    loss = ((cms(x, state)[0] - target) ** 2).sum(-1).mean(1).sum()
    grads = torch.autograd.grad(loss, list(cms.weights(state).values()))
    state = cms.accumulate(state, grads, torch.tensor([4, 3, 4]))
    assert state.memory["a.tokens"].dtype == torch.long
    _, updates = cms.write(state)
    assert set(updates) == {"a"}
    expected = sum(grad.flatten(1).square().sum(1) for grad in grads[:3]).sqrt()
    torch.testing.assert_close(updates["a"].surprise, torch.where(torch.tensor([True, False, True]), expected, 0.0))


def test_one_level_is_a_plain_mlp_and_endless_periods_a_plain_chain():
    """[NL eq. 70, 73] special cases."""
    x = torch.randn(ROWS, 7, DIM, dtype=torch.double)
    one = make([Level("only", math.inf)])
    mlp = SwiGLU(DIM, HIDDEN).double()
    mlp.load_state_dict(one.mlps["only"].state_dict())
    torch.testing.assert_close(one(x)[0], mlp(x), atol=1e-12, rtol=1e-12)  # y - x cancels one rounding
    chain = make([Level("a", math.inf), Level("b", math.inf), Level("c", math.inf)])
    y = x
    for name in "abc":
        y = y + chain.mlps[name](y)
    assert torch.equal(chain(x)[0], y - x)
    assert chain.initial_state(2).memory == {}


def test_per_row_weights_read_like_shared_ones():
    cms = make([Level("a", 4), Level("b", 8)], chunk_size=4)
    x = torch.randn(ROWS, 7, DIM, dtype=torch.double)
    torch.testing.assert_close(cms(x, cms.initial_state(ROWS))[0], cms(x)[0], atol=1e-12, rtol=1e-12)


def test_rows_never_mix():
    """Another row's content leaves a row bit-identical, weights and all."""
    cms = make([Level("a", 2, 0.3), Level("b", 4, 0.3)], chunk_size=2)
    states = []
    for other in (0.0, 100.0):
        torch.manual_seed(5)
        state = LayerState()
        for _ in range(4):
            x, target = torch.randn(2, ROWS, 2, DIM, dtype=torch.double)
            x[1] += other
            state, _ = learn(cms, state, x, target)
        states.append(state.memory)
    for name, value in states[0].items():
        assert torch.equal(value[[0, 2]], states[1][name][[0, 2]])
    assert not torch.equal(states[0]["a.up"][1], states[1]["a.up"][1])


def test_rows_without_tokens_are_untouched():
    cms = make([Level("a", 2, 0.3)], chunk_size=2)
    x, target = torch.randn(2, ROWS, 2, DIM, dtype=torch.double)
    state, updates = learn(cms, LayerState(), x, target, tokens=torch.tensor([2, 0, 2]))
    assert updates["a"].rows.tolist() == [True, False, True]
    assert torch.equal(state.memory["a.up"][1], cms.mlps["a"].up.weight)
    assert state.memory["a.tokens"].tolist() == [0, 0, 0]


def test_eta_zero_is_the_identity_and_anchor_decay_returns_to_the_start():
    x, target = torch.randn(2, ROWS, 2, DIM, dtype=torch.double)
    cms = make([Level("a", 2, eta=0.0)], chunk_size=2)
    state, _ = learn(cms, LayerState(), x, target)
    assert torch.equal(state.memory["a.down"], cms.mlps["a"].down.weight.expand(ROWS, -1, -1))
    free, pulled = (make([Level("a", 2, 0.4, anchor_decay=decay)], chunk_size=2) for decay in (0.0, 0.25))
    far, near = (learn(c, LayerState(), x, target)[0].memory["a.down"] for c in (free, pulled))
    start = free.mlps["a"].down.weight
    torch.testing.assert_close(near - start, 0.75 * (far - start))


def test_named_events_drive_and_reset_levels():
    """A period may be an event that the caller declares, never the machine's time."""
    cms = make([Level("fast", 2, 0.3, reset="document"), Level("slow", "session", 0.3)], chunk_size=2)
    state = LayerState()
    for _ in range(3):
        x, target = torch.randn(2, ROWS, 2, DIM, dtype=torch.double)
        state, updates = learn(cms, state, x, target)
        assert set(updates) == {"fast"}
    ended, updates = cms.tick(state, "document", torch.tensor([True, False, False]))
    assert updates == {}
    assert torch.equal(ended.memory["fast.up"][0], cms.mlps["fast"].up.weight)
    assert torch.equal(ended.memory["fast.up"][1], state.memory["fast.up"][1])
    one, updates = cms.tick(ended, "session", torch.tensor([False, True, False]))
    assert updates["slow"].rows.tolist() == [False, True, False]
    assert one.memory["slow.tokens"].tolist() == [6, 0, 6]
    assert torch.equal(one.memory["slow.up"][[0, 2]], ended.memory["slow.up"][[0, 2]])
    assert not torch.equal(one.memory["slow.up"][1], ended.memory["slow.up"][1])
    ended, updates = cms.tick(ended, "session")
    assert set(updates) == {"slow"}
    assert not torch.equal(ended.memory["slow.up"], state.memory["slow.up"])
    assert ended.memory["slow.tokens"].tolist() == [0, 0, 0]


def test_another_rule_keeps_its_slots_in_the_state():
    """Momentum written through a level equals the rule applied by hand."""
    cms = make([Level("a", 2, 0.1)], chunk_size=2, rule=momentum, max_norm=math.inf)
    state = LayerState()
    weights, slots = cms.mlps["a"].up.weight.detach()[None], {}
    for _ in range(3):
        x, target = torch.randn(2, 1, 2, DIM, dtype=torch.double)
        tracked = cms.track(state, 1)
        y, _ = cms(x, tracked)
        grads = torch.autograd.grad(((y - target) ** 2).sum(), list(cms.weights(tracked).values()))
        state, _ = cms.write(cms.accumulate(tracked, grads, torch.tensor([2])))
        weights, slots = momentum(weights, grads[1], None, slots, eta=0.1)
        torch.testing.assert_close(state.memory["a.up"], weights, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("reduce", ["mean", "sum"])
@pytest.mark.parametrize("bound", [0.02, 0.3, math.inf])
def test_the_clip_joins_eta_in_gradient_descent_and_the_gradient_in_other_rules(bound, reduce):
    """One step of both rules from scratch: momentum's first average is the gradient itself [NL eq. 1, 71]."""
    ends = []
    x, target = torch.randn(2, ROWS, 4, DIM, dtype=torch.double)
    for rule in (gd, momentum):
        cms = make([Level("a", 4, 0.3, anchor_decay=0.1)], chunk_size=4, rule=rule, max_norm=bound, reduce=reduce)
        ends.append(learn(cms, LayerState(), x, target)[0].memory)
    for part in ("gate", "up", "down"):
        torch.testing.assert_close(ends[0][f"a.{part}"], ends[1][f"a.{part}"], atol=1e-12, rtol=0)
    state = cms.track(None, ROWS)
    loss = ((cms(x, state)[0] - target) ** 2).sum((1, 2)) / (4 if reduce == "mean" else 1)
    for row in range(ROWS):
        for part, weight in state.memory.items():
            if weight.requires_grad:
                grad = torch.autograd.grad(loss[row], weight, retain_graph=True)[0][row]
                step = 0.3 * grad * min(1.0, bound / float(grad.norm()))
                torch.testing.assert_close(ends[0][part][row], (weight[row] - 0.9 * step).detach(), atol=1e-12, rtol=0)


def test_summed_gradients_are_the_mean_ones_times_their_tokens():
    """Two chunks into one period, with a row that has no token in the first."""
    cms = make([Level("a", 6, 0.3)], chunk_size=2)
    for summed in (False, True):
        state, total = cms.track(None, ROWS), 0
        for counts in (torch.tensor([2, 0, 1]), torch.tensor([2, 2, 2])):
            grads = [torch.randn_like(w) for w in cms.weights(state).values()]
            scale = counts.reshape(-1, 1, 1)
            state = cms.accumulate(state, [g * scale for g in grads] if summed else grads, counts, summed=summed)
            total = total + grads[0] * scale
        assert torch.equal(state.memory[f"{next(iter(cms.weights(state)))}.grad"], total)
        assert state.memory["a.tokens"].tolist() == [4, 2, 3]


def test_the_state_it_was_given_is_left_alone():
    cms = make([Level("a", 2, 0.3)], chunk_size=2)
    state = cms.initial_state(ROWS)
    copies = {name: value.clone() for name, value in state.memory.items()}
    learn(cms, state, *torch.randn(2, ROWS, 2, DIM, dtype=torch.double))
    assert all(torch.equal(state.memory[name], value) for name, value in copies.items())


def test_chunk_and_period_that_do_not_divide_name_the_repair():
    with pytest.raises(
        ValueError, match=r"chunk_size 48 does not divide update_period 128 of level 'mid'.*32, 64.*144"
    ):
        make([Level("mid", 128)], chunk_size=48)
    with pytest.raises(ValueError, match="unique"):
        make([Level("a", 64), Level("a", 64)])
    with pytest.raises(ValueError, match="no level"):
        make([])
