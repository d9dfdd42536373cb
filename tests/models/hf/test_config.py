"""The config of Hugging Face holds what a decoder's does, by both sets of names, and survives JSON."""

from __future__ import annotations

import ast
import json
import math

import pytest
from transformers import AutoConfig

import everlearn.models
from everlearn.levels import Level
from everlearn.models import PRESETS, HopeConfig, preset, sized
from tests.test_imports import PACKAGE, early_imports


@pytest.mark.parametrize("size", ["tiny", "340M"])
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_at_a_size_is_the_decoders_own(name, size):
    assert HopeConfig.from_preset(name, size).decoder_config() == sized(name, size)


@pytest.mark.parametrize("name", PRESETS)
def test_a_config_survives_json_and_the_auto_class(name, tmp_path):
    levels = [Level("a", 64, 0.2), Level("b", math.inf), Level("c", "session")]
    config = HopeConfig.from_preset(name, "small", levels=levels, eos_token_id=3, use_cache=False)
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(again, HopeConfig)
    assert again.decoder_config() == config.decoder_config() == sized(name, "small", levels=levels)
    assert (again.eos_token_id, again.use_cache, again.tie_word_embeddings) == (3, False, True)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert "auto_map" not in saved and again.auto_map == {}
    assert saved["model_type"] == "hope" and saved["dim"] == 512 and saved["levels"][1]["update_period"] == "never"


def test_every_field_can_be_given_by_either_name():
    ours = HopeConfig(dim=32, num_layers=3, num_heads=4, hidden_dim=20, vocab_size=99)
    theirs = HopeConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=20, vocab_size=99)
    assert (
        ours.decoder_config()
        == theirs.decoder_config()
        == preset("delta_net", dim=32, num_layers=3, num_heads=4, hidden_dim=20, vocab_size=99)
    )
    assert (ours.hidden_size, ours.num_hidden_layers) == (32, 3)
    assert HopeConfig.from_preset("delta_net", num_hidden_layers=1).num_layers == 1


def test_a_config_that_was_changed_is_checked_when_it_is_used():
    config = HopeConfig()
    config.num_heads = 3
    with pytest.raises(ValueError, match="does not split into 3 heads"):
        config.decoder_config()


def test_what_does_not_exist_or_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"preset 'gpt' is unknown; choose one of .*hope_attention"):
        HopeConfig.from_preset("gpt")
    with pytest.raises(ValueError, match="size 'huge' is unknown; choose one of tiny, small"):
        HopeConfig.from_preset("delta_net", "huge")
    with pytest.raises(ValueError, match="tie_word_embeddings is False"):
        HopeConfig(tie_word_embeddings=False)
    with pytest.raises(ValueError, match="give a list of Level"):
        HopeConfig(levels="fast")
    with pytest.raises(ValueError, match="a level that is none"):
        HopeConfig(levels=[{"speed": 3}])
    with pytest.raises(ValueError, match="dim is 0"):
        HopeConfig(dim=0)


def test_hugging_face_is_imported_with_the_first_of_its_names():
    """Nothing beside the folder imports it, or the folder, when it is imported itself."""
    models = PACKAGE / "models"
    for path in [path for path in models.rglob("*.py") if models / "hf" not in path.parents]:
        early = {name for _, name in early_imports(ast.parse(path.read_text()).body)}
        assert not [name for name in early if name.startswith(("transformers", "everlearn.models.hf"))], path
    assert everlearn.models.HopeConfig is HopeConfig
    with pytest.raises(AttributeError, match="has no attribute 'Hope'"):
        vars(everlearn.models)["__getattr__"]("Hope")
