"""Trainer of transformers: it learns and goes on from checkpoints; no memory passes between rows or batches."""

from __future__ import annotations

import pytest
import torch
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

from everlearn.models import HopeForCausalLM, HopeModel
from tests.convert.test_text import byte_level
from tests.models.hf.small import make, same, tokens

pytest.importorskip("accelerate", reason="the extra `train` is not installed: pip install 'everlearn[train]'")

KINDS = pytest.mark.parametrize("name", ["hope", "hope_attention", "titans_mac", "gated_delta_net"])
TEXTS = ["to be or not", "to be that is", "the question", "is not"]


def rows(*lengths: int) -> list[dict[str, torch.Tensor]]:
    """Return one example for each length; the numbers differ."""
    return [{"input_ids": ids, "labels": ids} for ids in (tokens(n, seed=i) for i, n in enumerate(lengths))]


def trainer(model, folder, data, collator=None, **changes) -> Trainer:
    """Return a trainer that only saves where it is told to."""
    usual = {
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "report_to": "none",
        "use_cpu": True,
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": 1,
    }
    arguments = TrainingArguments(folder, **{**usual, **changes})
    return Trainer(model, arguments, train_dataset=data, eval_dataset=data, data_collator=collator)


def losses(trained: Trainer) -> list[float]:
    return [line["loss"] for line in trained.state.log_history if "loss" in line]


def weights(model: HopeForCausalLM) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@KINDS
def test_every_weight_learns_and_what_is_saved_reads_and_generates_the_same(name, tmp_path):
    model, data = make(name, window=4), rows(*[12] * 8)
    before = weights(model)
    trained = trainer(model, tmp_path, data, max_steps=20)
    trained.train()
    assert losses(trained)[-1] < 0.8 * losses(trained)[0]
    assert all(not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert 0 < trained.evaluate()["eval_loss"] < losses(trained)[0]
    trained.save_model(tmp_path / "model")
    again, ids = HopeForCausalLM.from_pretrained(tmp_path / "model"), tokens(1, 5)
    model.eval()
    assert torch.equal(again(ids).logits, model(ids).logits)
    options = {"max_new_tokens": 6, "do_sample": False}
    greedy = model.generate(ids, use_cache=False, **options)
    assert torch.equal(model.generate(ids, **options), greedy) and torch.equal(again.generate(ids, **options), greedy)


def test_a_run_that_goes_on_from_a_checkpoint_ends_in_the_same_bits(tmp_path):
    """Weights, moments of the optimizer, schedule and order of the data are all restored; the model has no more."""
    data = rows(*[12] * 12)
    whole = make("hope")
    trainer(whole, tmp_path, data, max_steps=6, save_strategy="steps", save_steps=3, seed=3).train()
    resumed = make("hope")
    trainer(resumed, tmp_path, data, max_steps=6, seed=3).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    for name, parameter in resumed.named_parameters():
        assert torch.equal(parameter, dict(whole.named_parameters())[name]), name
    middle = HopeForCausalLM.from_pretrained(tmp_path / "checkpoint-3")
    assert any(not torch.equal(a, b) for a, b in zip(middle.parameters(), whole.parameters(), strict=True))


@KINDS
def test_checkpointing_changes_no_weight(name, tmp_path):
    """The same sums in the same order, computed twice."""
    plain, again = make(name, window=4), make(name, window=4)
    trainer(plain, tmp_path, rows(*[12] * 8)).train()
    counted = []
    again.decoder.blocks[0].mixer.register_forward_hook(lambda *_: counted.append(torch.is_grad_enabled()))
    trainer(again, tmp_path, rows(*[12] * 8), gradient_checkpointing=True).train()
    assert len(counted) == 4, "two steps, each block computed again for the backward pass"
    for name, parameter in again.named_parameters():
        same(parameter, dict(plain.named_parameters())[name])


@KINDS
def test_bf16_computes_in_bfloat16_and_keeps_the_weights_and_their_states_in_float32(name, tmp_path):
    """0.05 of a loss near 6 is 1 percent; bfloat16 has eight bits of mantissa."""
    plain, half = make(name, window=4), make(name, window=4)
    one, two = (trainer(model, tmp_path, rows(*[12] * 8), bf16=model is half) for model in (plain, half))
    kinds = set()
    matrix = next(layer for layer in half.decoder.blocks[0].modules() if isinstance(layer, torch.nn.Linear))
    matrix.register_forward_hook(lambda _, inputs, output: kinds.add(output.dtype))
    one.train(), two.train()
    assert kinds == {torch.bfloat16}
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float32}
    same(torch.tensor(losses(two)), torch.tensor(losses(one)), 0.05)
    cache = half.eval()(tokens(1, 6), use_cache=True).past_key_values
    assert {t.dtype for part in cache.state.memory.values() for t in part.values() if t.is_floating_point()} <= {
        torch.float32
    }


@KINDS
def test_no_memory_passes_from_batch_to_batch_or_row_to_row(name, tmp_path):
    """Each forward starts fresh: a batch's loss is the mean over its rows alone, whatever was read before it."""
    model = make(name, torch.float64, window=4)
    data = rows(9, 9, 9, 9)
    tried = trainer(model, tmp_path, data)
    model.train()
    batches = [{key: torch.stack([row[key] for row in data[i : i + 2]]) for key in data[0]} for i in (0, 2)]
    first = [tried.compute_loss(model, batch).item() for batch in batches]
    assert [tried.compute_loss(model, batch).item() for batch in reversed(batches)] == first[::-1]
    alone = [model(row["input_ids"][None], labels=row["labels"][None]).loss.item() for row in data]
    assert first == pytest.approx([sum(alone[:2]) / 2, sum(alone[2:]) / 2], abs=1e-6)
    grads = []
    for batch in (batches[0], {key: batches[1][key] for key in batches[1]}, batches[0]):
        model.zero_grad()
        tried.compute_loss(model, batch).backward()
        grads.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(grads[0], grads[2], strict=True))


@KINDS
def test_texts_of_any_length_padded_by_the_collator_have_the_loss_of_each_alone(name, tmp_path):
    tokenizer = byte_level()
    tokenizer.pad_token = tokenizer.eos_token
    model = make(name, torch.float64, vocab_size=320, window=4)
    texts = [tokenizer(text)["input_ids"] for text in TEXTS]
    assert len({len(ids) for ids in texts}) > 1
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    batch = collator([{"input_ids": ids} for ids in texts])
    assert (batch["attention_mask"] == 0).any()
    tried = trainer(model, tmp_path, [{"input_ids": ids} for ids in texts], collator, per_device_eval_batch_size=4)
    summed = sum(
        model(ids, labels=ids).loss.item() * (ids.shape[1] - 1) for ids in map(torch.tensor, ([i] for i in texts))
    )
    expected = summed / sum(len(ids) - 1 for ids in texts)
    assert tried.compute_loss(model, batch).item() == pytest.approx(expected, abs=1e-6)
    assert tried.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-6)


def test_what_trainer_predicts_with_holds_no_cache(tmp_path):
    """Caches of evaluation batches would be joined along rows like logits; the config names them as not to be kept."""
    model, data = make("hope"), rows(6, 6, 6)
    predictions = trainer(model, tmp_path, data, per_device_eval_batch_size=2).predict(data)
    assert predictions.predictions.shape == (3, 6, 256)
    ids = torch.stack([row["input_ids"] for row in data])
    same(torch.tensor(predictions.predictions), model(ids).logits.detach())


def test_a_model_without_its_head_has_no_loss_to_train(tmp_path):
    model = HopeModel(make("hope").config)
    with pytest.raises(ValueError, match="did not return a loss"):
        trainer(model, tmp_path, rows(6, 6)).train()


def test_trainer_writes_events_of_tensorboard(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra `train` is not installed: pip install 'everlearn[train]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trained = trainer(make("hope"), tmp_path / "out", rows(*[8] * 8), report_to="tensorboard", max_steps=3)
    trained.train()
    (file,) = (tmp_path / "out").rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file.parent)).Reload()
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(losses(trained), rel=1e-4)
