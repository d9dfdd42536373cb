"""Checkpoints: bit for bit in every dtype, safetensors alone, and only whole and sound ones."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

from everlearn.models import PRESETS, HopeConfig, HopeForCausalLM, HopeModel, load_model, save_model
from tests.models.hf.small import make, tokens

WEIGHTS = "model.safetensors"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", PRESETS)
def test_a_saved_model_is_bit_equal(name, dtype, tmp_path):
    model, ids = make(name, dtype), tokens(2, 9)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is HopeForCausalLM and loaded.dtype == dtype and not loaded.training
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert loaded.decoder.fingerprint() == model.decoder.fingerprint()
    assert loaded.lm_head.weight is loaded.decoder.embedding.weight
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["config.json", "generation_config.json", WEIGHTS]
    assert "lm_head.weight" not in load_file(tmp_path / WEIGHTS)


def test_a_model_is_loaded_in_another_precision(tmp_path):
    model, ids = make("hope_attention"), tokens(1, 5)
    model.save_pretrained(tmp_path)
    loaded = HopeForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    assert torch.equal(loaded(ids).logits, model.to(torch.bfloat16)(ids).logits)


def test_the_model_without_its_head_is_read_from_both_and_the_head_is_tied_again(tmp_path):
    model, ids = make(), tokens(1, 5)
    model.save_pretrained(tmp_path / "whole")
    body = AutoModel.from_pretrained(tmp_path / "whole")
    assert type(body) is HopeModel
    assert torch.equal(body(ids).last_hidden_state, model.model(ids).last_hidden_state)
    body.save_pretrained(tmp_path / "body")
    assert torch.equal(HopeForCausalLM.from_pretrained(tmp_path / "body")(ids).logits, model(ids).logits)


def test_a_new_model_starts_as_the_decoder_does():
    """Hugging Face would draw every matrix anew and set every bias to zero; ours know their own start."""
    torch.manual_seed(5)
    model = HopeForCausalLM(HopeConfig(dim=16, num_heads=2, hidden_dim=8))
    mixer = model.decoder.blocks[0].mixer
    assert mixer.gates.bias.tolist() == [0.0, 0.0, 5.0, 5.0]
    assert mixer.conv[-1].mean().item() == pytest.approx(1, abs=0.3)


def test_a_decoder_takes_the_form_of_hugging_face_and_shares_its_parameters(tmp_path):
    decoder = make("hope_attention").decoder
    save_model(decoder, tmp_path / "ours")
    loaded, _ = load_model(tmp_path / "ours")
    model, ids = HopeForCausalLM.from_decoder(loaded, eos_token_id=9), tokens(2, 6)
    assert model.decoder is loaded and model.lm_head.weight is loaded.embedding.weight
    assert torch.equal(model(ids).logits, decoder(ids)[0])
    assert not any(parameter.is_meta for parameter in model.parameters())
    assert model.generation_config.eos_token_id == 9
    model.save_pretrained(tmp_path / "theirs")
    again = HopeForCausalLM.from_pretrained(tmp_path / "theirs")
    save_model(again.decoder, tmp_path / "back")
    assert (tmp_path / "back" / WEIGHTS).read_bytes() == (tmp_path / "ours" / WEIGHTS).read_bytes()


def test_more_tokens_leave_the_old_ones_as_they_were(tmp_path):
    model, ids = make(), tokens(1, 6)
    before = model(ids).logits
    model.resize_token_embeddings(300, mean_resizing=False)
    assert torch.equal(model(ids).logits[..., :256], before)
    assert model.config.vocab_size == model.decoder.config.vocab_size == 300
    assert model.lm_head.weight is model.decoder.embedding.weight
    assert model(torch.tensor([[299]])).logits.shape == (1, 1, 300)
    model.save_pretrained(tmp_path)
    assert torch.equal(HopeForCausalLM.from_pretrained(tmp_path)(ids).logits, model(ids).logits)


def edited(folder, change) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


NAME = "model.decoder.blocks.0.mixer.qkv.weight"
FAULTS = {
    "missing": (lambda t: t.pop(NAME), "1 missing keys, such as model.decoder.blocks.0.mixer.qkv.weight; give"),
    "extra": (lambda t: t.update(more=torch.zeros(1)), "1 unexpected keys, such as more; give a checkpoint"),
    "another shape": (lambda t: t.update({NAME: torch.zeros(3, 3)}), r"1 mismatched keys, such as .*qkv\.weight"),
    "NaN": (lambda t: t[NAME][0].fill_(torch.nan), f"holds NaN or infinity in '{NAME}'; give an earlier"),
    "infinity": (lambda t: t[NAME][0].fill_(-torch.inf), f"holds NaN or infinity in '{NAME}'"),
}


@pytest.mark.parametrize("load", [HopeForCausalLM, AutoModelForCausalLM], ids=["class", "auto"])
@pytest.mark.parametrize(("change", "message"), FAULTS.values(), ids=FAULTS)
def test_what_is_not_whole_or_not_sound_is_refused_in_one_line(change, message, load, tmp_path):
    make().save_pretrained(tmp_path)
    edited(tmp_path, change)
    with pytest.raises(ValueError, match=message) as error:
        load.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


def test_a_config_of_another_model_and_pickled_weights_are_refused(tmp_path):
    make().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "num_layers": 3}))
    with pytest.raises(ValueError, match=r"missing keys, such as model\.decoder\.blocks\.2"):
        HopeForCausalLM.from_pretrained(tmp_path)
    file.write_text(json.dumps({**config, "mixer": "gpt"}))
    with pytest.raises(ValueError, match="mixer 'gpt' is unknown; choose one of"):
        HopeForCausalLM.from_pretrained(tmp_path)
    file.write_text(json.dumps(config))
    torch.save(load_file(tmp_path / WEIGHTS), tmp_path / "pytorch_model.bin")
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(OSError, match=r"model\.safetensors"):
        HopeForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(OSError, match=r"model\.safetensors"):
        HopeForCausalLM.from_pretrained(tmp_path, use_safetensors=False)


def test_what_was_found_on_loading_is_returned_when_asked_for(tmp_path):
    make().save_pretrained(tmp_path)
    _, info = HopeForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
