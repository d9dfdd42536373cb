"""Memories in the places of MLPs: the call carries their state, and those with levels learn what is read."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from everlearn.convert import (
    Continuum,
    Delta,
    replace_blocks,
    stack_levels,
)
from everlearn.learn import Learner
from everlearn.learn.stream import read
from everlearn.levels import Level
from everlearn.memory.codec import digest, to_tensors
from everlearn.memory.state import concat_rows
from tests.convert.families_fixture import FAMILIES, tiny, tokens
from tests.convert.hybrid_fixture import EVERY, LEARNS, LEVELS, MODELS, C, hybrid, learned
from tests.pretrained import tokenizer
from tests.tiny import assert_close


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
