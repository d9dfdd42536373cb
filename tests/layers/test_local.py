"""The local objective: an associative memory of (x, value) pairs inside one forward.  [NL eq. 6, 71-74]"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from everlearn.layers import CMS, associate
from everlearn.levels import Level
from everlearn.memory.state import LayerState
from tests.layers.variants import KINDS, ROWS, draw, make

LEVELS = [Level("fast", 3, 0.3), Level("slow", 6, 0.2)]
every_kind = pytest.mark.parametrize("kind", KINDS)


def squared(prediction: Tensor, value: Tensor) -> Tensor:
    return (prediction - value).square().sum(-1) / 2


def same(a: LayerState, b: LayerState, rows=slice(None)) -> None:
    """To 1e-10: another cut of a row, or other rows beside it, changes how a sum is rounded."""
    for name, value in a.memory.items():
        torch.testing.assert_close(value, b.memory[name][rows], atol=1e-10, rtol=1e-10)


def test_it_is_token_by_token_gradient_descent_on_the_pairs_written_out():
    """[NL eq. 6, 71] for one row and level, read before written: five tokens, a period of two, one token waits."""
    cms = make(CMS, [Level("only", 2, 0.3)], chunk_size=2, max_norm=math.inf)
    x, values = draw(1, 5)
    y, state = associate(cms, x, values, squared)
    theta = {part: w.detach().clone() for part, w in cms.mlps["only"].weights().items()}
    total = {part: torch.zeros_like(w) for part, w in theta.items()}
    for t in range(5):
        leaf = {part: w.clone().requires_grad_() for part, w in theta.items()}
        hidden = torch.nn.functional.silu(leaf["gate"] @ x[0, t]) * (leaf["up"] @ x[0, t])
        prediction = leaf["down"] @ hidden
        torch.testing.assert_close(y[0, t], prediction, atol=1e-12, rtol=1e-12)
        (0.5 * (prediction - values[0, t]).square().sum()).backward()
        for part in theta:
            total[part] += leaf[part].grad
            if t % 2:
                theta[part] -= 0.3 * total[part] / 2
                total[part].zero_()
    for part in theta:
        torch.testing.assert_close(state.memory[f"only.{part}"][0], theta[part], atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(state.memory[f"only.{part}.grad"][0], total[part], atol=1e-12, rtol=1e-12)
    assert state.memory["only.tokens"].tolist() == [1]


@every_kind
def test_any_split_gives_the_same(kind):
    cms = make(kind, LEVELS, chunk_size=3)
    x, values = draw(ROWS, 14)
    whole, end = associate(cms, x, values, squared)
    for cut in range(15):
        first, state = associate(cms, x[:, :cut], values[:, :cut], squared)
        second, state = associate(cms, x[:, cut:], values[:, cut:], squared, state)
        torch.testing.assert_close(torch.cat([first, second], 1), whole, atol=1e-10, rtol=1e-10)
        same(state, end)


@every_kind
def test_rows_of_any_length_and_phase_learn_as_if_alone(kind):
    """The clocks of the rows differ from the second call on, so that pieces end at different tokens."""
    cms = make(kind, LEVELS, chunk_size=3)
    (x, values), (more, targets) = draw(ROWS, 8), draw(ROWS, 9, seed=1)
    count = torch.tensor([8, 0, 4])
    y, state = associate(cms, x, values, squared, mask=torch.arange(8) < count[:, None])
    z, end = associate(cms, more, targets, squared, state)
    for row, n in enumerate(count.tolist()):
        one = slice(row, row + 1)
        alone, own = associate(cms, x[one, :n], values[one, :n], squared)
        torch.testing.assert_close(y[one, :n], alone, atol=1e-10, rtol=1e-10)
        alone, own = associate(cms, more[one], targets[one], squared, own)
        torch.testing.assert_close(z[one], alone, atol=1e-10, rtol=1e-10)
        same(own, end, one)


@every_kind
def test_what_stands_at_padding_and_in_other_rows_changes_no_bit(kind):
    cms = make(kind, LEVELS, chunk_size=3)
    x, values = draw(ROWS, 8)
    mask = torch.arange(8) < torch.tensor([[8], [5], [6]])
    y, state = associate(cms, x, values, squared, mask=mask)
    other, targets = x.clone(), values.clone()
    other[1], targets[1], targets[2, 6:], other[2, 6:] = -other[1], 7.0, math.nan, math.nan
    z, changed = associate(cms, other, targets, squared, mask=mask)
    assert torch.equal(y[[0, 2]], z[[0, 2]])
    assert not torch.equal(y[1], z[1])
    assert all(torch.equal(value[[0, 2]], changed.memory[name][[0, 2]]) for name, value in state.memory.items())


@every_kind
def test_it_learns_the_pairs(kind):
    """Eight pairs, shown again and again: what is read comes closer, and what was given is left alone."""
    cms = make(kind, [Level("fast", 8, 0.3), Level("slow", 16, 0.3)], chunk_size=8)
    x, values = draw(ROWS, 8)
    before = cms.initial_state(ROWS)
    copies = {name: value.clone() for name, value in before.memory.items()}
    y, _ = associate(cms, x.repeat(1, 60, 1), values.repeat(1, 60, 1), squared, before)
    first, last = squared(y[:, :8], values).mean(1), squared(y[:, -8:], values).mean(1)
    assert bool((last < 0.5 * first).all())
    assert all(torch.equal(before.memory[name], value) for name, value in copies.items())


@every_kind
def test_the_outer_gradient_is_exact_in_second_order_and_another_in_first(kind):
    """Against central differences along a direction in the parameters, the inputs and the values."""
    cms = make(kind, LEVELS, chunk_size=3)
    x, values = (t.requires_grad_() for t in draw(ROWS, 8))
    leaves = [*cms.parameters(), x, values]

    def loss(**options) -> Tensor:
        return associate(cms, x, values, squared, **options)[0][:, -2:].square().sum()

    generator = torch.Generator().manual_seed(1)
    way = [torch.randn(leaf.shape, dtype=leaf.dtype, generator=generator) for leaf in leaves]
    ends = []
    for step in (1e-6, -2e-6, 1e-6):
        with torch.no_grad():
            for leaf, w in zip(leaves, way, strict=True):
                leaf.add_(step * w)
        ends.append(float(loss().detach()))
    expected = (ends[0] - ends[1]) / 2e-6
    along = {}
    for order in (True, False):
        grads = torch.autograd.grad(loss(second_order=order), leaves, allow_unused=True)
        along[order] = float(sum((g * w).sum() for g, w in zip(grads, way, strict=True) if g is not None))
    assert along[True] == pytest.approx(expected, rel=1e-6)  # the error of a central difference
    assert along[False] != pytest.approx(expected, rel=1e-3)


@every_kind
def test_without_autograd_nothing_hangs_on_a_graph_and_the_values_are_the_same(kind):
    cms = make(kind, LEVELS, chunk_size=3)
    x, values = draw(ROWS, 8)
    y, state = associate(cms, x, values, squared)
    with torch.no_grad():
        z, cut = associate(cms, x, values, squared)
    assert y.requires_grad
    assert torch.equal(y, z)
    assert not z.requires_grad
    assert all(torch.equal(value, cut.memory[name]) for name, value in state.memory.items())
    assert not any(value.requires_grad for value in cut.memory.values())


def test_levels_that_wait_for_an_event_collect_and_frozen_ones_only_read():
    cms = make(CMS, [Level("day", "session", 0.3)], chunk_size=1)
    x, values = draw(ROWS, 5)
    y, state = associate(cms, x, values, squared)
    torch.testing.assert_close(y, cms(x)[0], atol=1e-12, rtol=1e-12)  # per-row weights round a product differently
    assert state.memory["day.tokens"].tolist() == [5] * ROWS
    frozen = make(CMS, [Level("base", math.inf)])
    y, state = associate(frozen, x, values, squared)
    assert torch.equal(y, frozen(x)[0])
    assert state.memory == {}


def test_what_does_not_fit_is_refused():
    cms = make(CMS, LEVELS, chunk_size=3)
    x, values = draw(ROWS, 4)
    with pytest.raises(ValueError, match=r"values have shape \(3, 3, 6\).*one value for each token"):
        associate(cms, x, values[:, :3], squared)
    with pytest.raises(ValueError, match=r"gives \(3, 3, 6\) for \(3, 3\) tokens.*sum\(-1\)"):
        associate(cms, x, values, lambda a, b: (a - b) ** 2)
    with pytest.raises(ValueError, match="not finite; nothing was written"):
        associate(cms, x, values * math.inf, squared)
    with pytest.raises(ValueError, match=r"gives None for \(3, 3\) tokens"):
        associate(cms, x, values, lambda a, b: None)
    for blind in (lambda a, b: squared(a, b).detach(), lambda a, b: squared(b, 0 * b)):
        with pytest.raises(ValueError, match="loss does not depend on the prediction, so it has no gradient"):
            associate(cms, x, values.clone().requires_grad_(), blind)
    with pytest.raises(ValueError, match=r"input is torch\.float16, but the weights are torch\.float64; convert it"):
        associate(cms, x.half(), values, squared)
    with pytest.raises(ValueError, match=r"another memory's: fast\.gate is nothing"):
        associate(cms, x, values, squared, make(CMS, [Level("a", 3, 0.3)], chunk_size=3).initial_state(ROWS))
    mean = make(CMS, [Level("slow", 6, 0.2), Level("fast", mean_of="slow")], chunk_size=3).initial_state(ROWS)
    with pytest.raises(ValueError, match=r"another memory's: fast\.gate\.grad is missing"):
        associate(cms, x, values, squared, mean)
    with pytest.raises(ValueError, match="padding before a real token"):
        associate(cms, x, values, squared, mask=torch.tensor([[False, True, True, True]] * ROWS))
