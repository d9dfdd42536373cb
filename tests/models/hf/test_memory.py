"""What a user teaches a Hugging Face model stands apart from it: learned by `Learner`, kept as one file, read back."""

from __future__ import annotations

import pytest
import torch

import everlearn as el
from everlearn.models import HopeForCausalLM
from tests.convert.test_text import byte_level
from tests.models.hf.small import make, tokens
from tests.tiny import STATES

TEXT = "the cat sat on the mat; the dog sat by it. "
GREEDY = {"do_sample": False, "max_new_tokens": 6}


@pytest.mark.parametrize("name", STATES)
def test_a_learner_teaches_it_for_each_user_and_rolls_back(name, tmp_path):
    model = make(name)
    before = model.decoder.fingerprint()
    reader = el.Learner(model, store=tmp_path)
    text = TEXT[:24]
    frozen = reader.score(text).bits_per_byte
    first = reader.read(text, user="ada")
    assert first.bits_per_byte == pytest.approx(first.bits.nanmean().item())
    early = reader.state("ada")
    reader.read(text, user="ada")
    learned = reader.score(text, user="ada").bits_per_byte
    assert learned < frozen
    assert reader.score(text).bits_per_byte == reader.score(text, user="bob").bits_per_byte == frozen
    assert el.Learner(model, store=tmp_path).score(text, user="ada").bits_per_byte == learned
    reader.restore("ada", early)
    assert reader.score(text, user="ada").bits_per_byte != learned
    assert model.decoder.fingerprint() == before


@pytest.mark.parametrize("name", STATES)
def test_generate_reads_with_what_a_learner_has_taught(name):
    """Hugging Face's `generate` and the learner's own give the same text, also inside an unfinished chunk."""
    model = make(name)
    reader = el.Learner(model)
    reader.read(TEXT[:24], user="ada")
    ids = reader.model.encode("the cat")[None]
    for end in ("flush", "open"):
        reader.read(TEXT[:10], user="ada", end=end)
        made = model.generate(ids, past_key_values=model.new_cache(reader.state("ada")), **GREEDY)
        assert reader.model.decode(made[0, 7:]) == reader.generate("the cat", user="ada", max_new_tokens=6)
    fresh, apart = model.generate(ids, **GREEDY), model.new_cache(reader.state("ada").new_segment())
    assert reader.model.decode(fresh[0, 7:]) == reader.generate("the cat", max_new_tokens=6)
    alone = model.generate(ids, past_key_values=apart, **GREEDY)
    assert reader.model.decode(alone[0, 7:]) == reader.generate("the cat", user="ada", apart=True, max_new_tokens=6)


@pytest.mark.parametrize("name", STATES)
def test_a_memory_file_goes_on_bit_for_bit(name, tmp_path):
    model, ids, more = make(name), tokens(2, 6), tokens(2, 3, seed=1)
    cache = model.new_cache()
    model(ids, past_key_values=cache)
    model.save_memory(tmp_path / "memory.safetensors", cache)
    loaded = model.load_memory(tmp_path / "memory.safetensors")
    assert loaded.get_seq_length() == 0  # a prompt goes on after it, and is not cut
    assert torch.equal(model(more, past_key_values=loaded).logits, model(more, past_key_values=cache).logits)
    model.save_pretrained(tmp_path)
    again = HopeForCausalLM.from_pretrained(tmp_path)
    loaded = again.load_memory(tmp_path / "memory.safetensors")
    assert torch.equal(
        again(more, past_key_values=loaded).logits,
        model(more, past_key_values=model.load_memory(tmp_path / "memory.safetensors")).logits,
    )


def test_a_closed_segment_leaves_the_memory_alone_in_the_file(tmp_path):
    model = make("hope_attention")
    cache = model.new_cache()
    model(tokens(1, 200), past_key_values=cache)
    model.save_memory(tmp_path / "open", cache)
    model.save_memory(tmp_path / "closed", cache.new_segment())
    assert (tmp_path / "closed").stat().st_size < (tmp_path / "open").stat().st_size / 10
    assert model.load_memory(tmp_path / "closed").state.context == {}


def test_the_file_of_a_store_is_read_too(tmp_path):
    model = make("hope_attention")
    reader = el.Learner(model, store=tmp_path)
    reader.read(TEXT * 4, user="ada")
    cache = model.load_memory(reader.store.path("ada"))
    made = model.generate(reader.model.encode("the ")[None], past_key_values=cache, **GREEDY)
    assert reader.model.decode(made[0, 4:]) == reader.generate("the ", user="ada", max_new_tokens=6)


def test_a_memory_of_another_model_a_damaged_one_and_an_empty_one_are_refused(tmp_path):
    model, file = make(), tmp_path / "memory"
    with pytest.raises(ValueError, match="the cache is empty"):
        model.save_memory(file, model.new_cache())
    assert not file.exists()
    cache = model.new_cache()
    model(tokens(1, 4), past_key_values=cache)
    model.save_memory(file, cache)
    other = make(dim=32)
    with pytest.raises(ValueError, match="is the memory of another model; load it with"):
        other.load_memory(file)
    with pytest.raises(ValueError, match="the cache of another model"):
        other.save_memory(file, cache)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is truncated or no safetensors file"):
        model.load_memory(file)


def test_a_model_with_a_tokenizer_is_read_through_it(tmp_path):
    model, tokenizer = make("hope_attention", vocab_size=320), byte_level()
    with pytest.raises(ValueError, match=r"the model has 320 tokens, which are no bytes; give its tokenizer"):
        el.Learner(model)
    reader = el.Learner(model.reader(tokenizer))
    before = reader.score(TEXT).bits_per_byte
    reader.read(TEXT * 2, user="ada")
    assert reader.score(TEXT, user="ada").bits_per_byte < before
    ids = tokenizer("the cat", return_tensors="pt")["input_ids"]
    made = model.generate(ids, past_key_values=model.new_cache(reader.state("ada")), **GREEDY)
    assert tokenizer.decode(made[0, ids.shape[1] :]) == reader.generate("the cat", user="ada", max_new_tokens=6)
    el.save(reader, tmp_path)
    assert el.load(tmp_path).score(TEXT, user="ada").bits_per_byte == reader.score(TEXT, user="ada").bits_per_byte


def test_levels_are_not_stacked_on_a_model_that_has_its_own():
    """Its cache holds no layers at all, and must not pass for one whose layers are all attention."""
    model = make("hope_attention", vocab_size=320)
    before = model(tokens(1, 4)).logits
    with pytest.raises(ValueError, match="HopeForCausalLM keeps no keys and values in each layer"):
        el.stack_levels(model, byte_level(), weights=["*.qkv"], window=64)
    assert torch.equal(model(tokens(1, 4)).logits, before)


def test_its_levels_are_described_as_the_decoders_are():
    model = make("hope_attention")
    ours, theirs = el.describe(model.decoder), el.describe(model)
    assert [level.update_period for level in theirs.levels] == [level.update_period for level in ours.levels]
    assert theirs.notes == ("lm_head.weight is model.decoder.embedding.weight again, counted once",)
