"""How a decoder puts its levels together: chosen by a word, kept on disk, and a chain is what it ever was."""

from __future__ import annotations

import json

import pytest
import torch

from everlearn.layers import CMS, IndependentCMS, NestedCMS
from everlearn.levels import Level
from everlearn.memory.codec import check_fits, decode, encode, from_tensors, to_tensors
from everlearn.models import Decoder, DecoderConfig, load_model, preset, save_model
from tests.tiny import LEVELS, byte_model

KINDS = {"sequential": CMS, "nested": NestedCMS, "independent": IndependentCMS}


@pytest.mark.parametrize("word", KINDS)
def test_the_word_chooses_the_class_and_survives_json_and_the_disk(word, tmp_path):
    model = byte_model(cms=word)
    assert {type(memory) for memory in model.memories().values()} == {KINDS[word]}
    config = DecoderConfig.from_dict(json.loads(json.dumps(model.config.to_dict())))
    assert config == model.config
    save_model(model, tmp_path)
    loaded, _ = load_model(tmp_path)
    assert loaded.config == model.config
    assert loaded.fingerprint() == model.fingerprint()
    ids = torch.arange(9)[None]
    assert torch.equal(loaded(ids)[0], model(ids)[0])


def test_a_config_from_before_there_was_a_choice_is_a_chain():
    """Its JSON is what it was, word for word, so the fingerprint taken over it is the same."""
    old = {
        "mixer": "delta_net",
        "vocab_size": 256,
        "dim": 8,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 8,
        "levels": [
            {"name": "fast", "update_period": 4, "eta": 0.3, "anchor_decay": 0.0, "reset": "document"},
            {"name": "slow", "update_period": 8, "eta": 0.3, "anchor_decay": 0.0, "reset": None},
        ],
        "chunk_size": 4,
        "window": None,
    }
    config = DecoderConfig.from_dict(old)
    assert config == preset("delta_net", levels=LEVELS, dim=8, hidden_dim=8, chunk_size=4)
    assert config.cms == "sequential"
    assert list(config.to_dict()) == list(old)
    assert config.to_dict() == old
    assert DecoderConfig.from_dict(old | {"cms": "sequential"}) == config


def test_the_fingerprint_of_a_chain_is_what_it_was():
    """The digest below was taken from the code before the choice, of a model whose parameters are all set by hand."""
    model = Decoder(preset("delta_net", levels=LEVELS, dim=4, num_layers=1, num_heads=1, hidden_dim=2, chunk_size=4))
    with torch.no_grad():
        for n, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape) % 7 - n)
    assert model.fingerprint() == "4e073b15be2fddff870ce09be80b4aa90a4ef50618df5e7c3a7d8e7905232a45"


def test_the_fingerprint_tells_the_kinds_apart():
    assert len({byte_model(cms=word).fingerprint() for word in KINDS}) == 3


def test_what_cannot_be_chosen_is_refused():
    with pytest.raises(ValueError, match="cms 'parallel' is unknown; choose one of sequential, nested, independent"):
        byte_model(cms="parallel")
    with pytest.raises(ValueError, match="cms is 'nested', but the model has no level"):
        preset("delta_net", cms="nested")
    with pytest.raises(ValueError, match=r"'slow' has update_period 4, but 'fast'.*from fast to slow"):
        byte_model(cms="nested", levels=[Level("fast", 8), Level("slow", 4)])


@pytest.mark.parametrize("word", KINDS)
def test_a_fresh_state_fits_its_own_model_and_no_other(word):
    """By the codec and by the decoder. Kinds share the names of a state: between them the fingerprint tells."""
    model = byte_model(cms=word)
    state = model.initial_state(2)
    back = from_tensors(decode(encode(to_tensors(state), {}), "the state")[0])
    check_fits(back, model.initial_state(2), "the state")
    with pytest.raises(ValueError, match="the state is another model's"):
        byte_model(cms=word, levels=[LEVELS[0], Level("other", 8)])(torch.zeros(2, 1, dtype=torch.long), back)


@pytest.mark.parametrize("word", KINDS)
def test_other_periods_share_the_parameters(word):
    model = byte_model(cms=word)
    other = model.with_levels([Level("fast", 4, 1.0), Level("slow", 16, 0.5)])
    assert other.config.cms == word
    assert all(a is b for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert other.fingerprint() == model.fingerprint()
