"""A hybrid is the original where nothing was replaced, and a delta memory where something was."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

import everlearn as el
from everlearn.convert import Delta, load_replaced, replace_attention, replace_more, stack_levels
from everlearn.convert.in_place import MemoryMixer
from everlearn.layers import DeltaMemory
from everlearn.learn import Learner
from everlearn.learn.stream import read
from everlearn.levels.describe import describe
from everlearn.memory.codec import decode, digest, encode, from_tensors, to_tensors
from everlearn.memory.state import concat_rows
from tests.convert.families_fixture import FAMILIES, tiny, tokens
from tests.pretrained import tokenizer
from tests.tiny import assert_close

KNOWN = ["llama", "qwen2", "qwen3", "mistral", "gemma", "phi", "phi3", "olmo", "stablelm"]
BIASED = ["qwen2", "phi"]
CHOICES = [[0], [1], [0, 1]]


def hybrid(layers=(0,), family="llama", **options):
    torch.manual_seed(4)
    return replace_attention(tiny(family), layers=layers, **{"from_projections": family not in BIASED, **options})


@pytest.mark.parametrize("family", KNOWN)
def test_with_nothing_replaced_it_is_the_original_bit_for_bit(family):
    plain, ids = tiny(family), tokens()
    model = replace_attention(plain, layers=[])
    expected = plain(ids).logits
    assert torch.equal(model(ids)[0], expected)
    assert torch.equal(model.base(ids).logits, expected)
    assert model.config.names() == () and model.initial_state(2).memory == {}


@pytest.mark.parametrize("layers", CHOICES)
def test_a_replaced_block_adds_what_a_delta_memory_gives_for_the_same_inputs(layers):
    """Each replaced block is x + memory(norm(x)), then the MLP as it was, written here by hand."""
    plain, model, ids = tiny(), hybrid(layers), tokens()
    x = plain.model.embed_tokens(ids)
    positions = torch.arange(ids.shape[1])[None]
    rotary = plain.model.rotary_emb(x, position_ids=positions)
    for index, block in enumerate(plain.model.layers):
        inputs = block.input_layernorm(x)
        if index in layers:
            memory = model.places()[f"block.{index}.attention"].memory
            assert isinstance(memory, DeltaMemory)
            mixed = memory(inputs)[0]
        else:
            mixed = block.self_attn(inputs, position_embeddings=rotary)[0]
        x = x + mixed
        x = x + block.mlp(block.post_attention_layernorm(x))
    expected = plain.lm_head(plain.model.norm(x))
    torch.testing.assert_close(model(ids)[0], expected, atol=1e-12, rtol=0)
    assert (expected - plain(ids).logits).abs().max() > 1e-2


@pytest.mark.parametrize("family", KNOWN)
@pytest.mark.parametrize("layers", CHOICES)
def test_reading_token_by_token_gives_the_logits_of_the_full_pass(family, layers):
    model, ids = hybrid(layers, family), tokens(2, 10)
    whole, expected = model(ids)
    state, pieces = None, []
    for t in range(10):
        logits, state = model(ids[:, t : t + 1], state)
        pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-10, rtol=0)
    assert_close(state, expected)


@pytest.mark.parametrize("cut", [1, 7, 16, 39])
def test_any_split_of_a_text_gives_the_whole(cut):
    model, ids = hybrid([1], window=12), tokens()
    whole, expected = model(ids)
    first, state = model(ids[:, :cut])
    second, state = model(ids[:, cut:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, atol=1e-10, rtol=0)
    assert_close(state, expected)
    # attention keeps what its window spans, and no more
    assert state.context["cache"]["k.0"].shape[1] <= 12


def test_rows_never_mix():
    model, ids = hybrid([0]), tokens(3, 24)
    other = ids.clone()
    other[1] = tokens(1, 24, seed=9)
    (a, left), (b, right) = model(ids), model(other)
    for row in (0, 2):
        assert torch.equal(a[row], b[row])
        assert torch.equal(left.memory["block.0.attention"]["S"][row], right.memory["block.0.attention"]["S"][row])
    assert not torch.equal(a[1], b[1])


@pytest.mark.parametrize("layers", CHOICES)
def test_padding_changes_nothing_wherever_it_stands(layers):
    model, ids = hybrid(layers), tokens(2, 12)
    for places in (slice(0, 12), slice(5, 17), [*range(4), *range(9, 17)]):
        padded, mask = torch.zeros(2, 17, dtype=torch.long), torch.zeros(2, 17, dtype=torch.bool)
        padded[1, places], mask[1, places] = ids[1], True
        padded[0], mask[0] = tokens(1, 17, seed=8)[0], True
        logits, state = model(padded, mask=mask)
        expected, alone = model(ids[1:])
        torch.testing.assert_close(logits[1, places], expected[0], atol=1e-10, rtol=0)
        assert_close(state.rows([1]), alone)
        after, _ = model(tokens(2, 3, seed=7), state)
        torch.testing.assert_close(after[1:], model(tokens(2, 3, seed=7)[1:], alone)[0], atol=1e-10, rtol=0)


def test_with_every_block_replaced_the_state_stops_growing():
    model = hybrid([0, 1], window=8)
    _, short = model(tokens(1, 8))
    _, long = model(tokens(1, 60))
    assert long.nbytes() == short.nbytes()
    assert "k.0" not in long.context["cache"]


def test_a_state_is_a_value_that_can_be_saved_and_joined():
    model, ids = hybrid([1]), tokens(2, 20)
    _, first = model(ids[:1, :9])
    _, second = model(ids[1:, :13])
    joined = concat_rows([first, second], model.initial_state(1))
    again = from_tensors(decode(encode(to_tensors(joined), {}), "state")[0])
    next_ids = ids[:, 13:]
    logits, _ = model(next_ids, again)
    torch.testing.assert_close(logits[:1], model(next_ids[:1], first)[0], atol=1e-10, rtol=0)
    torch.testing.assert_close(logits[1:], model(next_ids[1:], second)[0], atol=1e-10, rtol=0)


def test_the_end_of_a_document_empties_the_memories_of_the_rows_that_it_concerns():
    model = hybrid([0])
    _, state = model(tokens(2, 9))
    after, updates = model.tick(state, "document", torch.tensor([True, False]))
    assert updates == {} and not after.memory["block.0.attention"]["S"][0].any()
    assert torch.equal(after.memory["block.0.attention"]["S"][1], state.memory["block.0.attention"]["S"][1])
    assert torch.equal(
        model.tick(state, "turn")[0].memory["block.0.attention"]["S"], state.memory["block.0.attention"]["S"]
    )


def test_projections_of_the_attention_start_the_memory_and_groups_are_repeated():
    plain = tiny(num_attention_heads=4, num_key_value_heads=2)
    old = plain.model.layers[1].self_attn
    memory = replace_attention(plain, layers=[1]).places()["block.1.attention"].memory
    queries, keys, values = memory.qkv.weight.split(16)
    assert torch.equal(queries, old.q_proj.weight) and torch.equal(memory.out.weight, old.o_proj.weight)
    for head, group in ((0, 0), (1, 0), (2, 1), (3, 1)):
        mine, theirs = slice(4 * head, 4 * head + 4), slice(4 * group, 4 * group + 4)
        assert torch.equal(keys[mine], old.k_proj.weight[theirs])
        assert torch.equal(values[mine], old.v_proj.weight[theirs])
    drawn = replace_attention(plain, layers=[1], from_projections=False).places()["block.1.attention"].memory
    assert not torch.equal(drawn.qkv.weight[:16], queries)


def test_the_model_that_is_given_stays_as_it_was():
    plain, ids = tiny(), tokens()
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    expected = plain(ids).logits
    model = replace_attention(plain, layers=[0])
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert plain.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in plain.state_dict().items())
    assert torch.equal(plain(ids).logits, expected) and plain.config.use_cache
    first = hybrid([1])
    old = first.fingerprint()
    replace_more(first, attention={0: Delta()}).base.model.layers[1].self_attn.memory.qkv.weight.data.zero_()
    assert first.fingerprint() == old and first.config.names() == ("block.1.attention",)


def test_one_block_after_the_other_gives_what_both_at_once_give():
    ids = tokens()
    torch.manual_seed(0)
    second = hybrid([1])
    both = replace_more(second, attention={0: Delta()})
    assert both.config.names() == ("block.0.attention", "block.1.attention")
    one, two = both.places()["block.1.attention"].memory, second.places()["block.1.attention"].memory
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    at_once = hybrid([0, 1])
    at_once.base.load_state_dict(both.base.state_dict())
    assert torch.equal(at_once(ids)[0], both(ids)[0])
    assert replace_more(both).fingerprint() == both.fingerprint()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layers", [[], [1], [0, 1]])
def test_a_saved_hybrid_comes_back_bit_for_bit(tmp_path, dtype, layers):
    tiny("gemma").save_pretrained(tmp_path / "plain")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", dtype=dtype)
    model = replace_attention(plain, layers=layers, memory=Delta(gated=True, conv_width=3))
    model.save(tmp_path)
    again = load_replaced(tmp_path)
    assert again.config == model.config and again.fingerprint() == model.fingerprint()
    assert torch.equal(again(tokens())[0], model(tokens())[0])
    shown = json.loads((tmp_path / "replacement.json").read_text())
    assert [int(index) for index in shown["config"]["attention"]] == layers


def test_a_folder_that_is_not_whole_or_was_changed_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no replaced model \(replacement.json is missing\); give a folder"):
        load_replaced(tmp_path)
    hybrid().save(tmp_path)
    file = tmp_path / "replacement.json"
    file.write_text(file.read_text().replace('"gated": false', '"gated": true'))
    with pytest.raises(ValueError, match="not of one replaced model; copy both from the same folder"):
        load_replaced(tmp_path)


def test_a_learner_scores_and_generates_with_it_and_its_store_keeps_the_memory(tmp_path):
    words = tokenizer()
    torch.manual_seed(0)
    model = replace_attention(tiny(vocab_size=len(words)), words, layers=[1])
    reader = Learner(model)
    text = "the cat sat on the mat. "
    reader.read(text, user="ada", end="open")
    assert reader.score("and the dog", user="ada").bits_per_byte != reader.score("and the dog").bits_per_byte
    assert reader.generate("the dog", user="ada", max_new_tokens=4) == reader.generate(
        "the dog", user="ada", max_new_tokens=4
    )
    model.save(tmp_path)
    assert Learner(load_replaced(tmp_path)).score(text).bits_per_byte == reader.score(text).bits_per_byte


def test_reading_learns_nothing_by_gradient_and_gives_the_loss_of_the_logits():
    model, ids = hybrid([0]), tokens()
    report, _ = read(model, ids, model.initial_state(2), chunk_size=8, end="drop")
    expected = nn.functional.cross_entropy(model(ids)[0][:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    torch.testing.assert_close(report.nll[:, 1:].flatten(), expected.detach(), atol=1e-10, rtol=0)
    assert report.steps == {}


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(KNOWN)))
def test_attention_of_an_unknown_structure_is_refused_in_one_line(family):
    with pytest.raises(
        ValueError, match=r"^the attention of .* is not known: .*; known is .*; choose a model"
    ) as error:
        replace_attention(tiny(family), layers=[0])
    assert "\n" not in str(error.value)


def test_what_cannot_be_replaced_is_refused():
    with pytest.raises(ValueError, match=r"block 2 is not of LlamaForCausalLM, whose blocks are 0 to 1"):
        hybrid([2])
    with pytest.raises(ValueError, match="have biases, which a memory has no place for; give from_projections=False"):
        replace_attention(tiny("qwen2"), layers=[0])
    with pytest.raises(ValueError, match="cannot start a memory of 4 heads of 4; give the model's own num_heads"):
        replace_attention(tiny(head_dim=6), layers=[0], memory=Delta(num_heads=4))
    with pytest.raises(ValueError, match="num_heads 3 does not divide dim 16"):
        hybrid(memory=Delta(num_heads=3))


def test_a_call_that_a_memory_would_misread_is_refused():
    model, ids = hybrid([0]), tokens()
    with pytest.raises(ValueError, match=r"holds no state for 'block.0.attention'.*use_cache=False"):
        model.base(ids, use_cache=True)
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    with pytest.raises(ValueError, match="the mask hides tokens as padding"):
        model.base(ids, attention_mask=mask)
    with pytest.raises(ValueError, match=r"holds a memory 'block\.0\.attention' that this model lacks"):
        hybrid([1])(ids, model(ids)[1])
    with pytest.raises(ValueError, match="the vocabulary from 0 to 60; encode with the tokenizer"):
        model(ids + 60)
    with pytest.raises(ValueError, match="only the hybrid knows which; give stack_levels the ReplacedModel"):
        stack_levels(replace_attention(tiny(), layers=[0]).base)


def test_the_base_generates_what_reading_token_by_token_picks():
    model, ids = hybrid([1]), tokens(1, 6)
    found = model.base.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=None)
    expected, state = ids, None
    logits, state = model(ids, state)
    for _ in range(5):
        best = logits[:, -1].argmax(-1, keepdim=True)
        expected = torch.cat([expected, best], 1)
        logits, state = model(best, state)
    assert torch.equal(found, expected)


def test_every_mixer_is_told_by_the_name_of_its_block():
    model = hybrid([0, -1])
    assert {name: type(mixer) for name, mixer in model.places().items()} == {
        "block.0.attention": MemoryMixer,
        "block.1.attention": MemoryMixer,
    }


def test_a_description_names_the_memory_and_the_attention_that_is_left():
    found = describe(hybrid([0]))
    kinds = {c.kind: c for level in found.levels for c in level.components}
    assert kinds["matrix memory"].name == "base.model.layers.0.self_attn.memory"
    assert kinds["attention"].name == "base.model.layers.1.self_attn"


def test_a_learner_with_a_hybrid_is_saved_whole_and_goes_on_where_it_was(tmp_path):
    words = tokenizer()
    model = replace_attention(tiny(vocab_size=len(words)), words, layers=[1])
    reader = el.Learner(model)
    reader.read("the cat sat on the mat. ", "ada", end="open")
    el.save(reader, tmp_path)
    again = el.load(tmp_path)
    for each in (reader, again):
        each.read("and the dog sat by it", "ada", end="open")
    assert digest(to_tensors(again.state("ada"))) == digest(to_tensors(reader.state("ada")))
    with pytest.raises(ValueError, match="holds a model that is whole by itself; leave out base="):
        el.load(tmp_path, base="somewhere")
