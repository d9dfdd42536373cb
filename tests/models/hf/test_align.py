"""SFT and DPO of TRL, with and without LoRA of PEFT: they learn, and their collators change no loss."""

from __future__ import annotations

import math

import pytest
import torch

from everlearn.models import PRESETS, HopeForCausalLM
from tests.convert.test_text import byte_level
from tests.models.hf.small import make, same, tokens

MISSING = "the extra `align` is not installed: pip install 'everlearn[align]'"
trl = pytest.importorskip("trl", reason=MISSING)
datasets, peft = pytest.importorskip("datasets", reason=MISSING), pytest.importorskip("peft", reason=MISSING)

KINDS = pytest.mark.parametrize("name", ["hope", "hope_attention", "titans_mac", "gated_delta_net"])
LORA = pytest.mark.parametrize("lora", [False, True], ids=["all weights", "lora"])
TEXTS = {"text": ["to be or not", "to be that is", "the question", "is not"]}
PAIRS = {"prompt": ["to be"] * 4, "chosen": [" or not"] * 4, "rejected": [" is"] * 4}
USUAL = {
    "max_steps": 2,
    "per_device_train_batch_size": 4,
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "save_strategy": "no",
    "logging_steps": 1,
    "disable_tqdm": True,
    "gradient_checkpointing": False,
}


@pytest.fixture
def tokenizer():
    tokenizer = byte_level()
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def adapter(lora: bool = True) -> object:
    return peft.LoraConfig(target_modules="all-linear", r=4, task_type="CAUSAL_LM") if lora else None


def saved(folder, name: str, **changes) -> HopeForCausalLM:
    """Return a model that was loaded from a folder, as most that are trained further are."""
    make(name, vocab_size=320, window=4, **changes).save_pretrained(folder)
    return HopeForCausalLM.from_pretrained(folder)


def supervised(model, folder, tokenizer, config=None, **changes):
    arguments = trl.SFTConfig(folder, **{**USUAL, **changes})
    texts = datasets.Dataset.from_dict(TEXTS)
    return trl.SFTTrainer(model, arguments, train_dataset=texts, processing_class=tokenizer, peft_config=config)


def preferring(model, folder, tokenizer, config=None, reference=None, **changes):
    arguments = trl.DPOConfig(folder, **{**USUAL, **changes})
    pairs = datasets.Dataset.from_dict(PAIRS)
    return trl.DPOTrainer(
        model, reference, arguments, train_dataset=pairs, processing_class=tokenizer, peft_config=config
    )


def losses(trained) -> list[float]:
    return [line["loss"] for line in trained.state.log_history if "loss" in line]


@LORA
@KINDS
def test_supervised_training_learns_a_few_sentences(name, lora, tmp_path, tokenizer):
    model = saved(tmp_path / "model", name)
    before = model.decoder.fingerprint()
    trained = supervised(model, tmp_path, tokenizer, adapter(lora), max_steps=12, learning_rate=2e-2)
    trained.train()
    assert losses(trained)[-1] < 0.8 * losses(trained)[0]
    prompt = torch.tensor([tokenizer("to be")["input_ids"]])
    assert trained.model.generate(input_ids=prompt, max_new_tokens=4, do_sample=False).shape[1] > prompt.shape[1]
    if lora:
        assert trained.model.unload().decoder.fingerprint() == before, "LoRA changed a weight of the model"


@LORA
@KINDS
def test_preferences_are_learned(name, lora, tmp_path, tokenizer):
    """The first loss is log 2, since model and reference agree; then the chosen answer gets ahead."""
    model = saved(tmp_path / "model", name)
    trained = preferring(model, tmp_path, tokenizer, adapter(lora), max_steps=6, learning_rate=1e-2)
    trained.train()
    assert losses(trained)[0] == pytest.approx(math.log(2), abs=1e-4)
    assert losses(trained)[-1] < 0.9 * math.log(2)
    assert trained.state.log_history[-2]["rewards/margins"] > 0


def test_a_reference_is_loaded_from_the_folder_given_or_computed_before(tmp_path, tokenizer):
    """Three ways to the same reference give the same losses."""
    folder, found = tmp_path / "model", []
    for reference, changes in (
        (None, {}),
        (saved(folder, "hope"), {}),
        (None, {"precompute_ref_log_probs": True}),
    ):
        model = HopeForCausalLM.from_pretrained(folder)
        trained = preferring(model, tmp_path, tokenizer, None, reference, learning_rate=1e-2, seed=1, **changes)
        trained.train()
        found.append(torch.tensor(losses(trained)))
    same(found[1], found[0])
    same(found[2], found[0])


def test_a_folder_may_be_given_by_its_path(tmp_path, tokenizer):
    saved(tmp_path / "model", "hope")
    trained = supervised(str(tmp_path / "model"), tmp_path, tokenizer)
    trained.train()
    assert type(trained.model) is HopeForCausalLM


def test_two_steps_under_checkpointing_and_bfloat16_are_those_without_to_their_precision(tmp_path, tokenizer):
    """Checkpointing: another order of sums. bfloat16: eight bits of a loss near 6."""
    found = []
    for changes in ({}, {"gradient_checkpointing": True}, {"bf16": True}):
        trained = supervised(saved(tmp_path / "model", "hope"), tmp_path, tokenizer, **changes)
        trained.train()
        found.append(torch.tensor(losses(trained)))
    same(found[1], found[0])
    same(found[2], found[0], 0.05)


@KINDS
def test_padded_padding_free_and_packed_batches_have_the_loss_of_each_text_alone(name, tmp_path, tokenizer):
    """Weighted by tokens, to 1e-5 of float32; packed texts stand in one row, and none reads what another has left."""
    model = make(name, torch.float64, vocab_size=320, window=4)
    ways = {
        "padded": {},
        "padding free": {"padding_free": True, "max_length": None},
        "packed": {"packing": True, "max_length": 64},
        "packed, a row filled up": {"packing": True, "max_length": 64, "pad_to_multiple_of": 64},
    }
    for way, changes in ways.items():
        trained = supervised(model, tmp_path, tokenizer, **changes)
        batch = next(iter(trained.get_train_dataloader()))
        assert len(batch["input_ids"]) == (4 if way == "padded" else 1), way
        texts = [torch.tensor([[*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]) for text in TEXTS["text"]]
        nll = sum(model(ids, labels=ids).loss.item() * (ids.shape[1] - 1) for ids in texts)
        expected = nll / sum(ids.shape[1] - 1 for ids in texts)
        assert trained.compute_loss(model, dict(batch)).item() == pytest.approx(expected, abs=1e-5), way


@pytest.mark.parametrize("name", PRESETS)
def test_every_adapter_learns_and_reads_as_if_it_were_merged(name, tmp_path):
    """Also on the MLPs of levels, whose matrices are read as such; PEFT's own merging is the reference."""
    ids = tokens(2, 9)
    model = make(name, torch.float64, window=4)
    plain = model(ids).logits
    config = adapter()
    adapted = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    same(adapted(input_ids=ids).logits, plain, 1e-10)  # an adapter starts at zero
    adapted(input_ids=ids, labels=ids).loss.backward()
    learned = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert len(learned) == 2 * sum(isinstance(m, torch.nn.Linear) for m in make(name).decoder.modules())
    assert all(float(p.grad.norm()) > 0 for name, p in learned.items() if "lora_B" in name)
    with torch.no_grad():
        for parameter in learned.values():
            parameter.normal_(std=0.1)
    logits = adapted(input_ids=ids).logits
    assert (logits - plain).abs().max() > 0.01
    new = adapted.generate(input_ids=ids, max_new_tokens=4, do_sample=False)
    assert torch.equal(new, adapted.generate(input_ids=ids, max_new_tokens=4, do_sample=False, use_cache=False))
    adapted.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(make(name, torch.float64, window=4), tmp_path, autocast_adapter_dtype=False)
    same(loaded(input_ids=ids).logits, logits, 1e-10)
    with adapted.disable_adapter():
        same(adapted(input_ids=ids).logits, plain, 1e-10)
    same(adapted.merge_and_unload()(ids).logits, logits, 1e-10)


def test_a_learner_starts_a_user_from_the_adapted_weights(tmp_path):
    import everlearn as el

    model = make("hope_attention")
    adapted = peft.get_peft_model(model, adapter())
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    text = "to be or not to be, that is the question. " * 4
    reader = el.Learner(model.reader())
    score, before = reader.score(text).bits_per_byte, reader.score("that is not the question. " * 3).bits_per_byte
    reader.read(text, user="ada")
    assert reader.score("that is not the question. " * 3, user="ada").bits_per_byte < before
    model.save_memory(tmp_path / "ada.safetensors", model.new_cache(reader.state("ada")))
    assert model.load_memory(tmp_path / "ada.safetensors").state is not None
    with pytest.raises(ValueError, match="is the memory of another model"):
        make("hope_attention").load_memory(tmp_path / "ada.safetensors")
    merged = el.Learner(adapted.merge_and_unload().reader())
    assert merged.score(text).bits_per_byte == pytest.approx(score, abs=1e-4)


def test_answers_are_generated_and_rewarded(tmp_path, tokenizer):
    """GRPO generates with a cache in the middle of training; what it rewards becomes likelier, which one step shows."""
    model = saved(tmp_path / "model", "hope")
    before = model.decoder.fingerprint()
    seen: list[str] = []

    def reward(completions, **_):
        seen.extend(completions)
        return [float(i % 2) for i in range(len(completions))]

    arguments = trl.GRPOConfig(
        tmp_path, **{**USUAL, "max_steps": 1, "num_generations": 4, "max_completion_length": 4, "seed": 1}
    )
    prompts = datasets.Dataset.from_dict({"prompt": ["to be"] * 4})
    trained = trl.GRPOTrainer(model, reward, arguments, train_dataset=prompts, processing_class=tokenizer)
    trained.train()
    assert len(seen) == 4 and model.decoder.fingerprint() != before


def test_learned_prompts_are_refused_since_a_memory_reads_token_numbers():
    config = peft.PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=2, token_dim=16, num_layers=2, num_attention_heads=2
    )
    adapted, ids = peft.get_peft_model(make("hope"), config), tokens(1, 5)
    with pytest.raises(ValueError, match="inputs_embeds were given, but the memories of this model read token numbers"):
        adapted(input_ids=ids, labels=ids)
