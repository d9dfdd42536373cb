"""An MLP's hidden units can be dealt out to levels: together they give what the MLP gave.  [NL eq. 74]"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from everlearn.convert import Continuum, replace_blocks
from everlearn.convert.families import find_family
from everlearn.convert.starts import units_of
from everlearn.convert.substitutes import Site
from everlearn.layers import CMS, IndependentCMS, NestedCMS
from everlearn.levels import Level
from tests.convert.families_fixture import tiny, tokens

SWIGLU = ["llama", "qwen2", "qwen3", "mistral", "phi3", "olmo", "stablelm"]
LEVELS = (Level("fast", 8, eta=0.5), Level("slow", 16, eta=0.1), Level("still", math.inf))


@pytest.mark.parametrize("family", SWIGLU)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_levels_that_hold_all_units_give_the_logits_of_the_original(family, count):
    """y = sum_l w_l MLP_l(x) over levels side by side is the one MLP, for 24 units dealt to 1, 2 and 3.  [NL eq. 74]"""
    plain, ids = tiny(family), tokens()
    model = replace_blocks(
        plain, mlp={0: Continuum(levels=LEVELS[:count]), 1: Continuum(levels=LEVELS[:count])}, chunk_size=8
    )
    torch.testing.assert_close(model(ids)[0], plain(ids).logits, atol=1e-12, rtol=0)


def test_units_that_do_not_divide_leave_room_that_is_silent():
    plain, ids = tiny(intermediate_size=25), tokens()
    model = replace_blocks(plain, mlp={0: Continuum(levels=LEVELS[:2])}, chunk_size=8)
    assert model.places()["block.0.mlp"].memory.mlps["fast"].down.weight.shape == (16, 13)
    torch.testing.assert_close(model(ids)[0], plain(ids).logits, atol=1e-12, rtol=0)


def test_what_is_left_out_are_the_units_with_the_smallest_weights():
    """By hand: units with |gate| |up| |down| = 6, 1 and 24; two levels of one unit each get the last and the first."""
    mlp = tiny(intermediate_size=3, mlp_bias=False).model.layers[0].mlp
    with torch.no_grad():
        for name, sizes in (("gate_proj", (1, 1, 2)), ("up_proj", (2, 1, 3))):
            weight = getattr(mlp, name).weight
            weight.copy_(F.normalize(weight, dim=1) * torch.tensor(sizes)[:, None])
        mlp.down_proj.weight.copy_(F.normalize(mlp.down_proj.weight, dim=0) * torch.tensor((3, 1, 4)))
    chosen = Continuum(levels=LEVELS[:2], hidden_dim=1)
    memory = chosen.build(Site(dim=16, num_heads=2, hidden_dim=3, chunk_size=8)).double()
    chosen.start(memory, mlp, find_family(tiny()))
    for level, unit in (("fast", 2), ("slow", 0)):
        own = memory.mlps[level]
        assert torch.equal(own.gate.weight[0], mlp.gate_proj.weight[unit])
        assert torch.equal(own.up.weight[0], mlp.up_proj.weight[unit])
        assert torch.equal(own.down.weight[:, 0], mlp.down_proj.weight[:, unit])


@pytest.mark.parametrize(
    ("kind", "hidden"), [(CMS, 12), (IndependentCMS, 12), (NestedCMS, 24)], ids=lambda value: str(value)
)
def test_without_a_size_the_units_are_divided_among_the_mlps_that_are_read(kind, hidden):
    model = replace_blocks(tiny(), mlp={1: Continuum(levels=LEVELS[:2], kind=kind)}, chunk_size=8)
    memory = model.places()["block.1.mlp"].memory
    assert type(memory) is kind and {len(mlp.up.weight) for mlp in memory.mlps.values()} == {hidden}
    whole = replace_blocks(tiny(), mlp={1: Continuum(levels=LEVELS[:1], kind=kind)}, chunk_size=8)
    # one level of any kind is the MLP itself
    torch.testing.assert_close(whole(tokens())[0], tiny()(tokens()).logits, atol=1e-12, rtol=0)


@pytest.mark.parametrize("family", ["gemma", "gpt2", "gpt_neox", "phi", "falcon"])
def test_an_mlp_of_another_form_is_refused_and_can_be_drawn(family):
    with pytest.raises(ValueError, match=r"is no down \(silu\(gate x\) \* up x\) without .*; give from_projections=Fa"):
        replace_blocks(tiny(family), mlp={0: Continuum()})
    assert replace_blocks(tiny(family), mlp={0: Continuum()}, from_projections=False)(tokens())[0].isfinite().all()


def test_an_mlp_with_a_bias_is_refused():
    mlp = tiny(mlp_bias=True).model.layers[0].mlp
    torch.nn.init.ones_(mlp.down_proj.bias)
    with pytest.raises(ValueError, match="without biases"):
        units_of(mlp, find_family(tiny()))
