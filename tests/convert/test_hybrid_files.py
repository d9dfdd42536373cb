"""Hybrids are saved whole, take further places, move the rows of their caches, and refuse what cannot stand."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from everlearn.convert import (
    Continuum,
    Delta,
    ReplaceConfig,
    load_replaced,
    replace_attention,
    replace_blocks,
    replace_more,
    stack_levels,
)
from everlearn.convert.families import Family
from everlearn.convert.in_place import MemoryCache, MemoryMLP
from everlearn.layers import CMS, DeltaMemory
from everlearn.learn.stream import read
from everlearn.memory.state import LayerState
from tests.convert.families_fixture import tiny, tokens
from tests.convert.hybrid_fixture import LEARNS, LEVELS, C, hybrid


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_saved_hybrid_comes_back_with_every_place(tmp_path, dtype):
    tiny().save_pretrained(tmp_path / "plain")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", dtype=dtype)
    places = {"attention": {0: Delta(gated=True)}, "mlp": {0: Continuum(kind=CMS, hidden_dim=5), 1: Delta(num_heads=4)}}
    model = replace_blocks(plain, **places, chunk_size=128, window=32)
    model.save(tmp_path)
    again = load_replaced(tmp_path)
    assert again.config == model.config and again.fingerprint() == model.fingerprint()
    state, ids = model.initial_state(2), tokens()
    assert torch.equal(again(ids, state)[0], model(ids, state)[0])
    # what steps while it reads is not rounded to 16 bits
    held = again.initial_state(1).memory["block.0.mlp"]["fast.up"].dtype
    assert held == torch.promote_types(dtype, torch.float32)
    shown = json.loads((tmp_path / "replacement.json").read_text())
    assert shown["config"]["mlp"]["0"]["kind"] == "sequential" and len(shown["config"]["original"]) == 64


def test_a_hybrid_that_another_version_would_load_otherwise_is_refused(tmp_path, monkeypatch):
    hybrid(mlp={0: LEARNS}).save(tmp_path)
    monkeypatch.setattr("everlearn.convert.hybrid_files.base_hash", lambda _: "what other weights would give")
    with pytest.raises(ValueError, match="gives another model than was saved; load it with the versions that saved it"):
        load_replaced(tmp_path)


def test_further_places_keep_what_the_others_have_learned():
    first = hybrid(mlp={0: LEARNS})
    with torch.no_grad():
        first.places()["block.0.mlp"].memory.mlps["fast"].up.weight.mul_(0.5)
    more = replace_more(first, attention={0: Delta()}, mlp={-1: Delta()})
    assert more.config.names() == ("block.0.attention", "block.0.mlp", "block.1.mlp")
    assert torch.equal(*(m.places()["block.0.mlp"].memory.mlps["fast"].up.weight for m in (first, more)))
    kinds = {name: type(place.memory) for name, place in more.places().items()}
    assert kinds["block.1.mlp"] is DeltaMemory and isinstance(more.places()["block.1.mlp"], MemoryMLP)
    assert len(more.base.model.layers[0]._forward_pre_hooks) == 1  # the place is not listened to twice


def test_what_cannot_stand_or_be_named_is_refused():
    plain, one = tiny(), hybrid(mlp={0: LEARNS})
    with pytest.raises(ValueError, match=r"reads each token by itself .* of block 1; give Delta\(\) there"):
        replace_blocks(plain, attention={1: Continuum()})
    with pytest.raises(ValueError, match=r"block 0 got 'delta' where a substitute is needed; give .* Delta\(\) or"):
        replace_blocks(plain, mlp={0: "delta"})
    with pytest.raises(ValueError, match="block 7 is not of LlamaForCausalLM, whose blocks are 0 to 1; name some"):
        replace_blocks(plain, mlp={7: Delta()})
    with pytest.raises(ValueError, match=r"blocks \[-2, 0\] name one block twice, of 0 to 1; name each once"):
        replace_blocks(plain, mlp={0: Delta(), -2: Delta()})
    with pytest.raises(ValueError, match=r"the mlp of block 0 is a Continuum.* already; replaced so far are block"):
        replace_more(one, mlp={0: Delta()})
    for given in (one, one.base):
        with pytest.raises(ValueError, match=r"in the place of block\.0\.mlp already; give the .* to replace_more"):
            replace_attention(given, layers=[1])
    with pytest.raises(ValueError, match=r"'block\.0\.attention' holds no memory; the replaced places are \['block\.0"):
        one.path("block.0.attention")
    with pytest.raises(ValueError, match="chunk_size 0 is below 1"):
        replace_blocks(plain, chunk_size=0)
    with pytest.raises(ValueError, match="hidden_dim 0 is below 1"):
        Continuum(hidden_dim=0)
    with pytest.raises(ValueError, match=r"is no Continuum Memory System; give one of .* CMS"):
        Continuum(kind=DeltaMemory)
    with pytest.raises(ValueError, match="unknown field 'depth' of a replaced model"):
        ReplaceConfig.from_dict({"depth": 1})
    with pytest.raises(ValueError, match="substitute 'hope' is unknown; choose one of delta, continuum"):
        ReplaceConfig.from_dict({**one.config.to_dict(), "mlp": {"0": {"name": "hope"}}})


def test_a_model_without_a_known_structure_is_refused_without_advice_that_fits_stacking_alone():
    plain = tiny()
    plain.model.layers = nn.ModuleList(nn.ModuleDict({"attn": nn.Linear(2, 2)}) for _ in range(2))
    with pytest.raises(ValueError, match=r"no MLP was found in Llama.*; pass family=Family\(.*this model's names$"):
        replace_blocks(plain, mlp={0: Delta()})
    own = Family("model.layers", "mlp", ("gate_proj", "up_proj"), "down_proj")
    model = replace_blocks(tiny(), mlp={0: LEARNS}, family=own, chunk_size=C)
    assert model.config.family == own and ReplaceConfig.from_dict(model.config.to_dict()) == model.config


def test_calls_that_a_delta_memory_in_an_mlp_s_place_would_misread_are_refused():
    model, ids = hybrid(mlp={0: Delta()}), tokens()
    with pytest.raises(ValueError, match=r"holds no state for 'block\.0\.mlp'.*use_cache=False"):
        model.base(ids, use_cache=True)
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    with pytest.raises(ValueError, match="the mask hides tokens as padding"):
        model.base(ids, attention_mask=mask)
    with pytest.raises(ValueError, match="the prompts are padded"):
        model.generate(ids, mask=mask.bool())
    with pytest.raises(ValueError, match="use_cache=False would let a delta memory read all tokens again"):
        model.generate(ids, use_cache=False)
    # after a call that failed nothing is carried into the next
    torch.testing.assert_close(model.base(ids).logits, model(ids)[0], atol=1e-12, rtol=0)
    # what reads each token by itself misreads nothing
    free = hybrid(mlp={0: LEARNS})
    free.base(ids, use_cache=True, attention_mask=mask)


def test_the_rows_of_a_cache_are_moved_with_their_states():
    """By hand: rows 0, 1, 2 of keys, memories and contexts go where they are sent, together."""
    rows = torch.arange(3.0)[:, None]
    keys = rows[:, :, None, None].expand(3, 1, 4, 2)
    moves = {
        (2, 0, 0): lambda cache: cache.reorder_cache(torch.tensor([2, 0, 0])),
        (0, 0, 1, 1, 2, 2): lambda cache: cache.batch_repeat_interleave(2),
        (1, 2): lambda cache: cache.batch_select_indices(torch.tensor([1, 2])),
    }
    for expected, move in moves.items():
        cache = MemoryCache({"block.0.mlp": LayerState({"S": rows}, {"conv": rows + 10})}, None)
        cache.update(keys, keys, 0)
        move(cache)
        state = cache.states["block.0.mlp"]
        assert tuple(state.memory["S"][:, 0].tolist()) == expected
        assert tuple((state.context["conv"][:, 0] - 10).tolist()) == expected
        assert tuple(cache.layers[0].keys[:, 0, 0, 0].tolist()) == expected
    with pytest.raises(ValueError, match="2 tokens cannot be taken back out of a delta memory"):
        cache.crop(-2)
    plain = MemoryCache({}, None)
    plain.update(keys, keys, 0)
    plain.crop(-3)
    assert plain.get_seq_length() == 1


def test_a_save_that_is_cut_short_is_never_taken_for_whole(tmp_path, monkeypatch):
    """The description is written last: without it there is no hybrid, with an older one the two do not fit."""
    first, second = hybrid(mlp={0: LEARNS}), hybrid(mlp={1: LEARNS})

    def stopped(*_):
        raise KeyboardInterrupt

    for before, reason in (
        (None, r"replacement\.json is missing"),
        (first, "are not of one replaced model"),
    ):
        if before is not None:
            before.save(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr("everlearn.convert.folder.atomic_write", stopped)
            with pytest.raises(KeyboardInterrupt):
                second.save(tmp_path)
        with pytest.raises(ValueError, match=reason):
            load_replaced(tmp_path)
    second.save(tmp_path)
    assert load_replaced(tmp_path).fingerprint() == second.fingerprint()
    file = tmp_path / "replacement.json"
    file.write_text(file.read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(ValueError, match="has format 9, this version reads up to 1; update everlearn"):
        load_replaced(tmp_path)
    file.write_text("{")
    with pytest.raises(ValueError, match="are not of one replaced model"):
        load_replaced(tmp_path)


def test_levels_are_stacked_on_mlps_that_are_left_alone():
    model = hybrid(mlp={0: LEARNS})
    with pytest.raises(ValueError, match=r"the MLP of layer 0 was replaced .* of those asked for, none have theirs;"):
        stack_levels(model, layers=[0], levels=LEVELS[:2], chunk_size=C)
    with pytest.raises(ValueError, match="the MLP of layer 0 was replaced"):
        stack_levels(hybrid(mlp={0: Delta(), 1: Delta()}), levels=LEVELS[:2], chunk_size=C)
    patterns = stack_levels(hybrid(mlp={0: Delta()}), weights=["*"], levels=LEVELS[:2], chunk_size=C)
    assert not any(".memory." in matrix.name for matrix in patterns.matrices)
    with pytest.raises(ValueError, match="give stack_levels the ReplacedModel itself"):
        stack_levels(model.base, levels=LEVELS[:2], chunk_size=C)
    with pytest.raises(ValueError, match="chunk_size 3 does not divide update_period 8"):
        read(model, tokens(), model.initial_state(2), chunk_size=3)
