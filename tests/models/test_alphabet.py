"""A decoder reads text as bytes, or through a tokenizer: the parameters are shared, and both survive the disk."""

from __future__ import annotations

import math

import pytest
import torch

import everlearn as el
from everlearn.models import Decoder, load_model, preset, save_model
from tests.convert.test_text import TEXT, byte_level, pieces

SIZES = {"dim": 8, "num_layers": 1, "num_heads": 1, "hidden_dim": 8}


def decoder(vocab_size: int = 512) -> Decoder:
    return Decoder(preset("hope_attention", vocab_size=vocab_size, **SIZES))


@pytest.mark.parametrize("make", [byte_level, pieces], ids=["byte level", "pieces"])
def test_a_text_passes_through_the_tokenizer_and_back(make):
    tokenizer, plain = make(), decoder()
    model = plain.with_tokenizer(tokenizer)
    ids = model.encode(TEXT)
    assert ids.tolist() == tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert model.decode(ids) == TEXT
    assert int(model.count_bytes(ids).sum()) == len(TEXT.encode())
    assert model.stop_ids == (tokenizer.eos_token_id,)
    assert plain.encode(TEXT).tolist() == list(TEXT.encode()) and plain.stop_ids == ()


def test_the_parameters_are_shared_and_memories_belong_to_both():
    plain = decoder()
    model = plain.with_tokenizer(byte_level())
    assert model.embedding.weight is plain.embedding.weight
    assert model.fingerprint() == plain.fingerprint()
    assert model.with_levels(model.config.levels).stop_ids == model.stop_ids
    ids = model.encode(TEXT)[None]
    assert torch.equal(model(ids)[0], plain(ids)[0])


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused():
    with pytest.raises(ValueError, match="the tokenizer has 281 tokens, the model 256; give the tokenizer"):
        decoder(256).with_tokenizer(byte_level())


def test_the_tokenizer_is_saved_with_the_model_and_a_byte_model_in_its_place_has_none(tmp_path):
    plain = decoder()
    model = plain.with_tokenizer(pieces())
    save_model(model, tmp_path)
    loaded, _ = load_model(tmp_path)
    assert loaded.encode(TEXT).tolist() == model.encode(TEXT).tolist()
    (tmp_path / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="holds no whole tokenizer"):
        load_model(tmp_path)
    save_model(plain, tmp_path)
    assert load_model(tmp_path)[0].encode("a").tolist() == [97]


def test_a_learner_reads_generates_and_is_saved_with_its_tokenizer(tmp_path):
    """Bits per byte mean the same for both alphabets: the bits of a text over its bytes."""
    reader = el.Learner(decoder().with_tokenizer(byte_level()))
    ids = reader.model.encode(TEXT)[None]
    before = reader.score(TEXT)
    with torch.no_grad():
        nll = torch.nn.functional.cross_entropy(reader.model(ids)[0][0, :-1], ids[0, 1:], reduction="sum")
    predicted = len(TEXT.encode()) - int(reader.model.count_bytes(ids)[0, 0])
    assert before.bits_per_byte == pytest.approx(float(nll) / math.log(2) / predicted, 1e-5)
    reader.read(TEXT * 12, user="ada")
    el.save(reader, tmp_path)
    again = el.load(tmp_path)
    assert again.score(TEXT, user="ada").bits_per_byte == reader.score(TEXT, user="ada").bits_per_byte
    assert again.score(TEXT, user="ada").bits_per_byte < before.bits_per_byte
    assert again.generate("to be", user="ada", max_new_tokens=4) == reader.generate(
        "to be", user="ada", max_new_tokens=4
    )
