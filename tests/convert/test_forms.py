"""Each form is the identity at first, and what its equation says after."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from everlearn.convert import (
    FORMS,
    Family,
    LowRank,
    Mean,
    StackConfig,
    additive,
    chain_diff,
    chain_zero,
    mean,
    stack_levels,
)
from everlearn.convert.forms import summed
from everlearn.learn.chunk import learn_chunk
from everlearn.learn.stream import read
from everlearn.levels import Level
from tests.convert.families_fixture import FAMILIES, tiny, tokens
from tests.tiny import assert_close

C = 8
LEVELS = (Level("fast", C, 0.5), Level("slow", 2 * C, 0.5))
FOUR = (*LEVELS, Level("slower", 4 * C, 0.5), Level("slowest", 4 * C, 0.5))
EXACT = {"additive": 3, "low_rank": 3, "chain_zero": 3, "chain_diff": 3, "mean": 4}


def stacked(form, levels=LEVELS, model=None, **options):
    return stack_levels(model or tiny(), form=form, levels=levels, chunk_size=C, **options)


def taught(model, rows=2):
    return read(model, tokens(rows, 40, 5), model.initial_state(rows), chunk_size=C, end="flush")[1]


def level_mlp(model, state, level, row, block=0):
    """Return one level's copy of a Llama MLP in one row, as weights by name."""
    mlp, found = model.base.model.layers[block].mlp, {}
    for part in ("gate_proj", "up_proj", "down_proj"):
        base = mlp.get_submodule(part).base.weight
        found[part] = base + state.memory["stack"][f"{level}.model.layers.{block}.mlp.{part}"][row]
    return found


def run(weights, x):
    return F.linear(F.silu(F.linear(x, weights["gate_proj"])) * F.linear(x, weights["up_proj"]), weights["down_proj"])


@pytest.mark.parametrize("word", FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_levels_that_have_not_moved_change_no_bit(family, word):
    dtype = torch.bfloat16 if family in ("llama", "gpt2", "falcon") else torch.float32
    plain, ids = tiny(family, dtype), tokens()
    expected = plain(ids).logits
    model = stacked(FORMS[word], FOUR[: EXACT[word]], tiny(family, dtype))
    assert torch.equal(model(ids, model.initial_state(2))[0], expected)
    assert torch.equal(model.unstack()(ids).logits, expected)


def test_the_mean_of_three_copies_is_equal_to_rounding_only():
    """The mean as aggregation of independent levels [NL eq. 74]; 1/3 is no float."""
    plain, ids = tiny(dtype=torch.float32), tokens()
    model = stacked(mean, FOUR[:3], tiny(dtype=torch.float32))
    logits, expected = model(ids, model.initial_state(2))[0], plain(ids).logits
    assert not torch.equal(logits, expected)
    # 1e-4 of the largest logit is what the form promises
    assert (logits - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert [Mean().exact(count) for count in (1, 2, 3, 4, 5, 8)] == [True, True, False, True, False, True]


@pytest.mark.parametrize("word", FORMS)
def test_every_form_learns_and_does_not_depend_on_cuts(word):
    model, ids = stacked(FORMS[word]), tokens(1, C, seed=4).repeat(2, 7)
    whole, expected = read(model, ids, model.initial_state(2), chunk_size=C)
    _, state = read(model, ids[:, :13], model.initial_state(2), chunk_size=C)
    _, state = read(model, ids[:, 13:], state, chunk_size=C)
    assert_close(state, expected)
    assert whole.nll[:, -C:].mean() < whole.nll[:, 1:C].mean() - 0.1


@pytest.mark.parametrize("word", FORMS)
def test_rows_read_as_if_alone(word):
    model, ids = stacked(FORMS[word]), tokens()
    state = taught(model)
    together, _ = model(ids, state)
    for row in range(2):
        alone, _ = model(ids[[row]], state.rows([row]))
        torch.testing.assert_close(together[[row]], alone, atol=1e-10, rtol=0)


def test_the_gradient_of_additive_levels_is_that_of_their_sum():
    """All levels of the independent CMS with a sum see one gradient [NL eq. 74]."""
    model = stacked(additive, [Level("a", C, 0.5), Level("b", 2 * C, 0.25)])
    _, state = learn_chunk(model, tokens(2, C + 1), model.initial_state(2))
    for matrix in model.matrices:
        stepped, collected = (
            state.memory["stack"][f"{name}.{matrix.name}{end}"] for name, end in (("a", ""), ("b", ".grad"))
        )
        norm = (collected / C).flatten(1).norm(dim=1).reshape(-1, 1, 1)
        torch.testing.assert_close(stepped, -0.5 * collected / C / norm.clamp_min(1), atol=1e-12, rtol=0)


def test_low_rank_adds_the_products_of_its_factors():
    model, ids = stacked(LowRank(3)), tokens()
    state = taught(model)
    other = copy.deepcopy(model).unstack(None)
    for matrix in model.matrices:
        held = state.memory["stack"]
        for level in ("fast", "slow"):
            b, a = (held[f"{level}.{matrix.name}.{part}"][0] for part in "ba")
            assert b.shape == (matrix.out_features, 3) and a.shape == (3, matrix.in_features)
            other.get_submodule(matrix.name).weight.data += b @ a
    torch.testing.assert_close(model(ids, state)[0][:1], other(ids[:1]).logits, atol=1e-10, rtol=0)


@pytest.mark.parametrize("form", [chain_zero, chain_diff])
def test_a_chain_applies_each_copy_to_what_the_one_before_left(form):
    """y_l = y_{l-1} + MLP_l(norm(y_{l-1})) behind the block [NL eq. 73]; here of the last block of a Llama."""
    model, ids = stacked(form, layers=[1]), tokens(1)
    state = taught(model, rows=1)
    layer, seen = model.base.model.layers[1], []
    handle = layer.register_forward_hook(lambda *args: seen.append(args[2]))
    with torch.no_grad():
        model.base(ids)  # outside of any context: the block as it was
        y = seen[0]
        for level in ("fast", "slow"):
            x = layer.post_attention_layernorm(y)
            weights = level_mlp(model, state, level, 0, block=1)
            if form is chain_zero:
                weights["down_proj"] = state.memory["stack"][f"{level}.model.layers.1.mlp.down_proj"][0]
                y = y + run(weights, x)
            else:
                y = y + run(weights, x) - layer.mlp(x)
        expected = model.base.lm_head(model.base.model.norm(y))
        handle.remove()
        torch.testing.assert_close(model(ids, state)[0], expected, atol=1e-10, rtol=0)


def test_the_mean_averages_the_copies():
    """Agg is the mean of MLP_l(x) [NL eq. 74]."""
    model, ids = stacked(mean, layers=[0]), tokens(1)
    state = taught(model, rows=1)
    layer, seen = model.base.model.layers[0], []
    handle = layer.mlp.register_forward_hook(lambda *args: seen.append((args[1][0], args[2])))
    model(ids, state)
    handle.remove()
    x, found = seen[-1]  # the hook sees the first copy alone, too
    outputs = [run(level_mlp(model, state, level, 0), x) for level in ("fast", "slow")]
    torch.testing.assert_close(found, sum(outputs) / 2, atol=1e-10, rtol=0)


def test_the_first_steps_of_a_zero_projection_move_nothing_else():
    model = stacked(chain_zero)
    _, state = learn_chunk(model, tokens(1, C + 1), model.initial_state(1))
    moved = {name for name, tensor in state.memory["stack"].items() if name.endswith("_proj") and tensor.any()}
    assert moved == {f"fast.model.layers.{i}.mlp.down_proj" for i in range(2)}


@pytest.mark.parametrize("count", [2, 4, 8])
def test_a_power_of_two_of_equal_terms_adds_up_without_rounding(count):
    term = torch.randn(1000)
    assert torch.equal(summed([term] * count) / count, term)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": chain_zero, "weights": ["*.up_proj"]}, "'down_proj' of each copy from zero"),
        ({"form": mean, "weights": ["*.o_proj"]}, "copies MLPs, and .*o_proj' is in none"),
        (
            {"form": chain_diff, "family": Family("model.layers", "mlp", ("gate_proj",), "down_proj")},
            "norms its MLP otherwise",
        ),
        ({"form": chain_zero, "merged": True}, "merged=True has no meaning"),
        ({"form": "additive"}, "form 'additive' is no form"),
    ],
)
def test_a_choice_that_a_form_cannot_follow_is_refused_and_leaves_the_model_alone(options, message):
    model = tiny()
    with pytest.raises(ValueError, match=message):
        stack_levels(model, levels=LEVELS, chunk_size=C, **options)
    assert list(model.state_dict()) == list(tiny().state_dict())
    assert not any(module._forward_hooks for module in model.modules())
    stacked(additive, model=model)


def test_a_rank_below_one_is_refused():
    with pytest.raises(ValueError, match="rank 0 is no whole number"):
        LowRank(0)


@pytest.mark.parametrize("form", [*FORMS.values(), LowRank(3)])
def test_a_config_survives_json(form):
    config = StackConfig(
        form=form, weights=("*.down_proj",), layers=(0, 1), max_norm=float("inf"), family=Family("a", "b", ("c",), "d")
    )
    assert StackConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [({"colour": 1}, "unknown field 'colour'"), ({"form": {"name": "sum"}}, "form 'sum' is unknown")],
)
def test_a_config_of_something_else_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        StackConfig.from_dict({**StackConfig().to_dict(), **change})


@pytest.mark.parametrize("change", [{"chunk_size": 0}, {"chunk_size": 48}, {"max_norm": 0}, {"max_norm": float("nan")}])
def test_a_value_outside_its_range_is_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        StackConfig(**change)
