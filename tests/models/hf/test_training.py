"""Training: the gradients of the decoder, with and without checkpointing, in a plain loop and in Trainer."""

from __future__ import annotations

import pytest
import torch

from everlearn.models import PRESETS, HopeForCausalLM
from tests.models.hf.small import make, same, tokens


def counted_gradients(model, ids, **options) -> tuple[dict[str, torch.Tensor], int]:
    """Return the gradient of the loss, and how often the first block's mixer was computed for it."""
    calls = []
    hook = model.decoder.blocks[0].mixer.register_forward_hook(lambda *_: calls.append(1))
    model.zero_grad()
    model(ids, labels=ids, **options).loss.backward()
    hook.remove()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}, len(calls)


@pytest.mark.parametrize("name", PRESETS)
def test_checkpointing_changes_no_gradient_and_every_parameter_has_one(name):
    model, ids = make(name, torch.float64, window=4).train(), tokens(2, 13)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    for options in ({}, {"attention_mask": mask}):
        plain, calls = counted_gradients(model, ids, **options)
        assert calls == 1
        assert all(float(grad.norm()) > 0 for grad in plain.values())
        for reentrant in (False, True):
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
            again, calls = counted_gradients(model, ids, **options)
            assert calls == 2, "the block was not computed again for the backward pass"
            for parameter, grad in again.items():
                same(grad, plain[parameter], 1e-10)
            model.activation_checkpointing_disable()


@pytest.mark.parametrize("name", PRESETS)
def test_a_plain_loop_learns_a_sentence(name):
    model = make(name).train()
    ids = model.reader().encode("to be or not to be")[None]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] * 0.7
    assert model.lm_head.weight is model.decoder.embedding.weight


def test_loss_in_bfloat16_is_close_and_finite():
    """Eight bits of mantissa; 0.05 of a loss near 6 is 1 percent."""
    model, ids = make("delta_net"), tokens(2, 32)
    wanted = model(ids, labels=ids).loss
    with torch.autocast("cpu", torch.bfloat16):
        same(model(ids, labels=ids).loss, wanted, 0.05)
    found = model.to(torch.bfloat16)(ids, labels=ids).loss
    assert found.dtype == torch.float32
    same(found, wanted, 0.05)


def rows() -> list[dict[str, torch.Tensor]]:
    return [{"input_ids": ids, "labels": ids} for ids in tokens(8, 12)]


def test_trainer_takes_two_steps_and_evaluates(tmp_path):
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    model = make("hope_attention")
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    arguments = TrainingArguments(
        tmp_path,
        max_steps=2,
        per_device_train_batch_size=4,
        report_to="none",
        use_cpu=True,
        gradient_checkpointing=True,
    )
    trainer = Trainer(model, arguments, train_dataset=rows(), eval_dataset=rows())
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0
    assert all(not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    trainer.save_model(tmp_path / "model")
    again, ids = HopeForCausalLM.from_pretrained(tmp_path / "model"), tokens(1, 5)
    assert torch.equal(again(ids).logits, model.eval()(ids).logits)


def test_supervised_and_preference_training_take_two_steps(tmp_path):
    """TRL calls the model without its head and multiplies by the head itself; packing starts each document afresh."""
    trl = pytest.importorskip("trl")
    datasets, peft = pytest.importorskip("datasets"), pytest.importorskip("peft")
    from everlearn.models.hf.export import export
    from tests.convert.test_text import byte_level

    tokenizer = byte_level()
    tokenizer.pad_token = tokenizer.eos_token
    export(make("delta_net", vocab_size=320), tmp_path / "model")
    options = {"max_steps": 2, "per_device_train_batch_size": 2, "report_to": "none", "use_cpu": True, "bf16": False}
    model = HopeForCausalLM.from_pretrained(tmp_path / "model")
    texts = datasets.Dataset.from_dict({"text": ["to be or not", "to be that is", "the question", "is not"] * 2})
    sft = trl.SFTConfig(tmp_path / "sft", packing=True, max_length=16, **options)
    trl.SFTTrainer(model, sft, train_dataset=texts, processing_class=tokenizer).train()
    pairs = datasets.Dataset.from_dict({"prompt": ["to be"] * 4, "chosen": [" or not"] * 4, "rejected": [" is"] * 4})
    lora = peft.LoraConfig(target_modules=["qkv", "out"], r=2, task_type="CAUSAL_LM")
    dpo = trl.DPOConfig(tmp_path / "dpo", **options)
    trl.DPOTrainer(model, args=dpo, train_dataset=pairs, processing_class=tokenizer, peft_config=lora).train()
