"""Memories in the places of MLPs: the call carries their state, and those with levels learn what is read."""

from __future__ import annotations

import copy
import itertools
import json
import math

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
from everlearn.learn import Learner
from everlearn.learn.stream import read
from everlearn.levels import Level
from everlearn.memory.codec import digest, to_tensors
from everlearn.memory.state import LayerState, concat_rows
from tests.convert.families_fixture import FAMILIES, tiny, tokens
from tests.pretrained import tokenizer
from tests.tiny import assert_close

C = 8
LEVELS = (
    Level("fast", C, eta=0.5, anchor_decay=0.02, reset="document"),
    Level("slow", mean_of="fast", decay=0.9),
    Level("still", math.inf),
)
LEARNS = Continuum(levels=LEVELS)


def hybrid(family="llama", *, attention=None, mlp=None, **options):
    torch.manual_seed(4)
    drawn = family not in ("llama", "qwen3", "mistral", "phi3", "olmo", "stablelm")
    options = {"chunk_size": C, "from_projections": not drawn, **options}
    return replace_blocks(tiny(family), attention=attention, mlp=mlp, **options)


@pytest.mark.parametrize("kind", [Delta(), LEARNS], ids=["delta", "continuum"])
def test_a_replaced_mlp_adds_what_the_memory_gives_for_the_same_inputs(kind):
    """Each block is x + attention(norm(x)), then x + memory(norm(x)), written here by hand."""
    plain, model, ids = tiny(), hybrid(mlp={1: kind}), tokens()
    memory = model.places()["block.1.mlp"].memory
    with torch.no_grad():
        for parameter in memory.parameters():
            parameter.mul_(0.7)
    x = plain.model.embed_tokens(ids)
    rotary = plain.model.rotary_emb(x, position_ids=torch.arange(ids.shape[1])[None])
    for index, block in enumerate(plain.model.layers):
        x = x + block.self_attn(block.input_layernorm(x), position_embeddings=rotary)[0]
        inputs = block.post_attention_layernorm(x)
        x = x + (memory(inputs)[0] if index == 1 else block.mlp(inputs))
    expected = plain.lm_head(plain.model.norm(x))
    torch.testing.assert_close(model(ids)[0], expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(model.base(ids).logits, expected, atol=1e-12, rtol=0)
    assert (expected - plain(ids).logits).abs().max() > 1e-2


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_reading_token_by_token_gives_the_logits_of_the_full_pass(family):
    """The MLP of every family is found, and whatever its block is called with carries the memory's state."""
    model, ids = hybrid(family, mlp={0: Delta(), 1: LEARNS}), tokens(2, 14)
    whole, expected = model(ids, model.initial_state(2))
    state, pieces = model.initial_state(2), []
    for t in range(14):
        logits, state = model(ids[:, t : t + 1], state)
        pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-10, rtol=0)
    assert_close(state, expected)
    assert expected.memory["block.0.mlp"]["S"].abs().max() > 1e-3


EVERY = {"attention": {1: Delta()}, "mlp": {0: Delta(), 1: LEARNS}}


def learned(model, ids, cuts=(), mask=None):
    """Read pieces of a text and learn; return the losses of all tokens and the state."""
    state, losses = model.initial_state(len(ids)), []
    edges = [0, *cuts, ids.shape[1]]
    for start, stop in itertools.pairwise(edges):
        part = None if mask is None else mask[:, start:stop]
        report, state = read(model, ids[:, start:stop], state, part, chunk_size=C)
        losses.append(report.nll)
    return torch.cat(losses, 1), state


def stacked(**places):
    return stack_levels(hybrid(**places), levels=LEVELS[:2], chunk_size=C)


# every kind of learning hybrid
MODELS = {
    "in place": lambda: hybrid(**EVERY),
    "stacked": lambda: stacked(attention={0: Delta()}),
    "with a window": lambda: stacked(attention={0: Delta()}, window=12),
    "both": lambda: stacked(attention={0: Delta()}, mlp={1: LEARNS}),
    "no attention left": lambda: stacked(attention={0: Delta(), 1: Delta()}, mlp={0: Delta()}),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("cuts", [(C,), (1, 6, 7, 23, 29)])
def test_any_cut_of_a_text_teaches_a_hybrid_the_same(name, cuts):
    model, ids = MODELS[name](), tokens(2, 35)
    (whole, expected), (pieces, state) = learned(model, ids), learned(model, ids, cuts)
    torch.testing.assert_close(pieces[:, 1:], whole[:, 1:], atol=1e-9, rtol=0, equal_nan=True)
    assert_close(state, expected, atol=1e-9)
    # something was learned: a hybrid that is frozen predicts otherwise
    with torch.no_grad():
        frozen = nn.functional.cross_entropy(model(ids)[0][0, :-1], ids[0, 1:], reduction="none")
    assert (frozen - whole[0, 1:])[:C].abs().max() < 1e-9 < 1e-3 < (frozen - whole[0, 1:])[C:].abs().max()


@pytest.mark.parametrize("name", MODELS)
def test_rows_of_a_learning_hybrid_never_mix_and_padding_changes_nothing(name):
    model, ids = MODELS[name](), tokens(3, 26)
    other = ids.clone()
    other[1] = tokens(1, 26, seed=9)
    (a, left), (b, right) = learned(model, ids), learned(model, other)
    for row in (0, 2):
        assert torch.equal(a[row, 1:], b[row, 1:])
        assert digest(to_tensors(left.rows([row]))) == digest(to_tensors(right.rows([row])))
    assert not torch.equal(a[1, 1:], b[1, 1:])
    padded, mask = torch.zeros(2, 44, dtype=torch.long), torch.zeros(2, 44, dtype=torch.bool)
    places = [*range(2, 9), *range(11, 30)]
    padded[1, places], mask[1, places] = ids[1], True
    padded[0], mask[0] = tokens(1, 44, seed=8)[0], True  # two chunks more than the other row
    nll, state = learned(model, padded, mask=mask)
    torch.testing.assert_close(nll[1, places][1:], a[1, 1:], atol=1e-9, rtol=0)
    assert_close(state.rows([1]), left.rows([1]), atol=1e-9)


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"with a window"}))  # `generate` sees beyond a window
@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}])
def test_generate_goes_on_from_the_state_of_each_row(name, options):
    """Greedy is reading token by token; beams and repeated rows give what each row alone gives."""
    model, ids = MODELS[name](), tokens(2, 5)
    fresh = model.initial_state(2)
    _, state = read(model, tokens(2, 30, 5), fresh, chunk_size=C, end="flush")
    with torch.no_grad():
        _, state = model(tokens(2, 7, 6), state)
    plain = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": 5, **options}
    torch.manual_seed(0)
    found = model.generate(ids, state, **plain)
    if not options:
        expected, current = ids, state
        with torch.no_grad():
            logits, current = model(ids, current)
            for _ in range(5):
                best = logits[:, -1].argmax(-1, keepdim=True)
                expected = torch.cat([expected, best], 1)
                logits, current = model(best, current)
        assert torch.equal(found, expected)
        assert not torch.equal(found, model.generate(ids, **plain))
    if "num_beams" in options:
        alone = [model.generate(ids[[row]], state.rows([row]), **plain) for row in (0, 1)]
        assert torch.equal(found, torch.cat(alone))
    if "num_return_sequences" in options:
        assert found.shape == (4, 10) and torch.equal(found[:, :5], ids.repeat_interleave(2, 0))
        with torch.no_grad():  # the last sampled tokens have a chance under the state of their own row
            rows = state.rows([0, 0, 1, 1])
            chances = model(found[:, :-1], rows)[0][:, 4:].log_softmax(-1).gather(2, found[:, 5:, None])
        assert chances.min() > -12


def test_a_stacked_hybrid_at_rest_gives_the_logits_of_the_hybrid_bit_for_bit():
    model, ids = hybrid(attention={0: Delta()}, mlp={1: LEARNS}), tokens()
    expected = model(ids, model.initial_state(2))[0]
    levels = stack_levels(model, levels=LEVELS[:2], chunk_size=C)
    assert torch.equal(levels(ids, levels.initial_state(2))[0], expected)
    assert list(levels.memories()) == ["stack", "block.1.mlp"]
    assert {matrix.name.split(".")[2] for matrix in levels.matrices} == {"0"}  # of the MLP that is left
    assert levels.hybrid is model and len(list(levels.parameters())) == len(list(model.parameters()))
    assert MODELS["with a window"]().sight.window == 12
    # given back, it is the hybrid again, and takes gradients
    assert levels.unstack() is model.base and torch.equal(model(ids, model.initial_state(2))[0], expected)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_level_in_a_place_learns_as_it_would_alone():
    """Independent writing: the gradient of the mean loss by autograd on a copy whose MLP is a parameter, clipped, with
    the step of one level.  [NL eq. 71]
    """
    only = Continuum(levels=(Level("fast", C, eta=0.5), Level("still", math.inf)))
    model, ids = hybrid(mlp={0: only}), tokens(1, C + 1)
    _, state = read(model, ids, model.initial_state(1), chunk_size=C, end="flush")
    twin = copy.deepcopy(model)
    weights = twin.places()["block.0.mlp"].memory.mlps["fast"]
    loss = nn.functional.cross_entropy(twin.base(ids[:, :-1]).logits[0], ids[0, 1:])
    for name in ("gate", "up", "down"):
        (grad,) = torch.autograd.grad(loss, weights.get_submodule(name).weight, retain_graph=True)
        step = grad / max(1.0, float(grad.norm()))
        expected = weights.get_submodule(name).weight - 0.5 * step
        torch.testing.assert_close(state.memory["block.0.mlp"][f"fast.{name}"][0], expected, atol=1e-10, rtol=0)
    assert not any(name.startswith("still") for name in state.memory["block.0.mlp"])


def test_the_end_of_a_document_empties_delta_memories_and_restarts_fast_levels():
    model = hybrid(**EVERY)
    state = learned(model, tokens(2, 20))[1].new_segment()
    after, updates = model.tick(state, "document", torch.tensor([True, False]))
    assert not after.memory["block.0.mlp"]["S"][0].any() and after.memory["block.0.mlp"]["S"][1].any()
    fast, slow = (after.memory["block.1.mlp"][f"{level}.up"] for level in ("fast", "slow"))
    assert torch.equal(fast[0], slow[0]) and not torch.equal(fast[1], slow[1]) and updates == {}
    with pytest.raises(ValueError, match="give bool of shape"):
        model.tick(state, "document", torch.tensor([1, 0]))


def test_states_of_several_streams_are_joined_and_belong_to_one_model():
    model, ids = hybrid(**EVERY), tokens(2, 20)
    first, second = learned(model, ids[:1, :9])[1], learned(model, ids[1:, :13])[1]
    joined = concat_rows([first, second], model.initial_state(1))
    piece = tokens(2, 6, seed=7)
    report, _ = read(model, piece, joined, chunk_size=C)
    for row, own in enumerate((first, second)):
        alone, _ = read(model, piece[[row]], own, chunk_size=C)
        torch.testing.assert_close(report.nll[[row]], alone.nll, atol=1e-9, rtol=0)
    with pytest.raises(ValueError, match=r"it holds a memory 'block\.0\.mlp' that this model lacks"):
        hybrid(mlp={1: LEARNS})(piece, joined)


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


def test_rates_of_what_learns_in_a_place_can_be_changed():
    model, ids = hybrid(mlp={0: LEARNS}), tokens(1, 40)
    before = model.fingerprint()
    frozen = (Level("fast", C, eta=0.0), *LEVELS[1:])
    model.set_levels({"block.0.mlp": frozen})
    assert model.config.mlp[0].levels == frozen and model.fingerprint() == before
    nll, _ = learned(model, ids)
    expected = nn.functional.cross_entropy(model.base(ids[:, :-1]).logits[0], ids[0, 1:], reduction="none")
    torch.testing.assert_close(nll[0, 1:], expected.detach(), atol=1e-10, rtol=0)  # a rate of 0 learns nothing
    with pytest.raises(ValueError, match=r"'block\.1\.mlp' is no place that learns .*\['block\.0\.mlp'\]; name them"):
        model.set_levels({"block.1.mlp": frozen})
    with pytest.raises(ValueError, match="keep the names"):
        model.set_levels({"block.0.mlp": LEVELS[:1]})


def test_a_learner_reads_with_a_stacked_hybrid_for_one_user(tmp_path):
    words = tokenizer()
    torch.manual_seed(0)
    model = replace_blocks(tiny(vocab_size=len(words)), words, attention={1: Delta()}, mlp={0: LEARNS}, chunk_size=C)
    reader = Learner(stack_levels(model, levels=LEVELS[:2], chunk_size=C))
    text = "the cat sat on the mat and the dog sat by it. " * 5
    before = reader.score(text).bits_per_byte
    reader.read(text, "ada")
    assert reader.score(text, "ada").bits_per_byte < before - 0.3 and reader.score(text).bits_per_byte == before
    assert len(reader.generate("the dog", "ada", max_new_tokens=4)) > 0


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


def test_what_a_call_carried_is_gone_when_it_has_ended_or_failed():
    """A place that is asked by itself reads afresh, whatever its block has just read, and keeps no cache alive."""
    model, ids = hybrid(mlp={1: Delta()}), tokens()
    place, x = model.places()["block.1.mlp"], torch.randn(2, 5, 16, dtype=torch.float64)
    expected = place.memory(x)[0]
    model(ids)
    assert torch.equal(place(x), expected)
    last = model.base.model.layers[1]

    def fails(*_):
        raise RuntimeError("somewhere in the block")

    hook = last.post_attention_layernorm.register_forward_hook(fails)
    with pytest.raises(RuntimeError, match="somewhere"):
        model(ids)
    hook.remove()
    assert torch.equal(place(x), expected)


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
