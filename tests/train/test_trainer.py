"""One step against the plain computation; what saves memory changes rounding alone; a carried state is a full pass."""

from __future__ import annotations

import dataclasses
import math
import shutil

import pytest
import torch
import torch.nn.functional as F

from everlearn.models import Decoder, preset
from everlearn.models.alphabet import BYTES
from everlearn.train import Processes
from everlearn.train.corpus import Corpus, split, tokens
from everlearn.train.loop import muon_in_float32, optimizers, schedule
from everlearn.train.trainer import Trainer, begin
from tests.train.runs import TEXTS, config

PARTS = split(TEXTS, 0.1)
CORPUS = Corpus(tokens(PARTS.train, BYTES), tokens(PARTS.valid, BYTES))


def after(one: Trainer, number: int) -> dict[str, torch.Tensor]:
    """Take steps; return the weights."""
    for _ in range(number):
        one.step()
    return one.weights()


def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name] - b[name]).detach().abs().max()) for name in a)


def test_two_steps_are_the_plain_computation_bit_for_bit():
    """Autograd of the mean loss over the windows of the step, clipped; each optimizer at its share of the schedule."""
    one = config(training={"clip": 0.5})
    trainer = Trainer(one, CORPUS)
    torch.manual_seed(0)
    model = Decoder(one.model)
    pair = optimizers(model, one.training, of_matrices=muon_in_float32)
    for number in range(2):
        ids = trainer.order.batch(number).ids
        logits, _ = model(ids[:, :-1])
        nll = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        (nll.sum() / 64).backward()
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for optimizer in pair:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * schedule(number, one.training)
            optimizer.step()
            optimizer.zero_grad()
        step = trainer.step()
        assert step.nats == pytest.approx(float(nll.detach().sum()), rel=1e-6)
        assert step.norm == pytest.approx(norm, rel=1e-5)
        assert (step.number, step.tokens, step.bytes) == (number + 1, 64, 64)
        assert step.lr == 8e-3 * schedule(number, one.training)
        assert step.bits_per_byte == pytest.approx(float(nll.detach().mean()) / math.log(2), rel=1e-6)
    assert apart(trainer.weights(), dict(model.named_parameters())) == 0


@pytest.mark.parametrize("changes", [{"accumulate": 2}, {"accumulate": 4, "recompute": True}, {"recompute": True}])
@pytest.mark.parametrize("carry", [False, True])
def test_what_saves_memory_changes_rounding_alone(changes, carry):
    """Sums in another order: 1e-6 was seen after three steps; to compute again is the same, bit for bit."""
    usual = after(Trainer(config(carry=carry), CORPUS), 3)
    saving = after(Trainer(config(carry=carry, **changes), CORPUS), 3)
    assert apart(usual, saving) <= (1e-5 if "accumulate" in changes else 0)


def test_recomputing_keeps_less_for_the_gradient():
    kept = []
    for recompute in (False, True):
        trainer, sizes = Trainer(config(recompute=recompute), CORPUS), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, own=sizes: own.append(t.numel()) or t, lambda t: t):
            trainer.step()
        kept.append(sum(sizes))
    assert kept[1] < kept[0]


def test_a_carried_state_is_one_full_pass_over_each_document():
    """Without a step in between, the losses of the segments are those of reading each piece of a strip at once."""
    trainer = Trainer(config(carry=True, training={"length": 12}), CORPUS)
    rows: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in range(4)]
    for step in range(60):
        batch = trainer.order.batch(step)
        losses = trainer._losses(batch, 0)
        for row in range(4):
            ids, nll = batch.ids[row][: int(batch.real[row].sum()) + 1], losses[row][batch.real[row]].detach()
            if bool(batch.fresh[row]):
                rows[row].append((ids, nll))
            else:
                seen, before = rows[row][-1]
                rows[row][-1] = (torch.cat([seen, ids[1:]]), torch.cat([before, nll]))
    assert sum(map(len, rows)) > 4  # some rows have come to the end of a document
    for ids, nll in (stream for row in rows for stream in row):
        logits, _ = trainer.model(ids[None, :-1])
        whole = F.cross_entropy(logits[0], ids[1:], reduction="none")
        torch.testing.assert_close(nll, whole, rtol=1e-4, atol=1e-4)


def test_the_gradient_stops_at_the_border_of_a_segment():
    trainer = Trainer(config(carry=True), CORPUS)
    trainer.step()
    state = trainer.states[0]
    assert state is not None
    assert not any(t.requires_grad for layer in state.memory.values() for t in layer.values())
    assert bool((state.tokens_seen == 16).all())


def test_rows_that_begin_leave_the_others_alone():
    model = Trainer(config(carry=True), CORPUS).model
    ids = torch.randint(256, (3, 9))
    _, state = model(ids)
    fresh = torch.tensor([False, True, False])
    mixed = begin(model, state, fresh)
    more = torch.randint(256, (3, 5))
    goes_on, begins = model(more, state)[0], model(more)[0]
    torch.testing.assert_close(model(more, mixed)[0], torch.where(fresh[:, None, None], begins, goes_on))
    assert begin(model, state, ~fresh | fresh) is None
    assert begin(model, state, fresh & ~fresh) is state
    assert mixed.tokens_seen.tolist() == [9, 0, 9]


def test_attention_with_a_window_carries_and_without_one_is_refused():
    with pytest.raises(ValueError, match=r"attention keeps every token it has read, .* attention with a window"):
        Trainer(config("hope_attention", carry=True), CORPUS)
    one = config("hope_attention", carry=True)
    one = dataclasses.replace(one, model=dataclasses.replace(one.model, window=8))
    trainer = Trainer(one, CORPUS)
    assert all(math.isfinite(trainer.step().nats) for _ in range(4))


def test_bfloat16_computes_there_and_keeps_everything_in_float32():
    kinds = []
    trainer = Trainer(config(bf16=True), CORPUS)
    trainer.model.blocks[0].mlp.mlps["fast"].up.register_forward_hook(lambda *_: None)
    trainer.model.blocks[0].register_forward_hook(lambda _, given, out: kinds.append((given[0].dtype, out[1].dtype)))
    outputs = []
    trainer.model.blocks[1].mixer.out.register_forward_hook(lambda _, given, out: outputs.append(out.dtype))
    weights = after(trainer, 2)
    assert outputs == [torch.bfloat16] * 2
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    kept = [t for o in trainer.optimizers for slots in o.state.values() for t in slots.values()]
    assert {tensor.dtype for tensor in kept} == {torch.float32}
    plain = after(Trainer(config(), CORPUS), 2)
    assert 0 < apart(weights, plain) < 0.05


def test_what_is_not_finite_is_refused_and_changes_nothing():
    trainer = Trainer(config(), CORPUS)
    trainer.step()
    with torch.no_grad():
        trainer.model.embedding.weight[ord("e"), 0] = math.nan
    before = trainer.weights()
    kept = [t.clone() for o in trainer.optimizers for slots in o.state.values() for t in slots.values()]
    with pytest.raises(ValueError, match=r"step 2 has a loss of nan .*both must be finite.*lr was 0.008.*warmup \(2"):
        trainer.step()
    now = trainer.weights()
    assert all(torch.equal(before[name], now[name]) or name == "embedding.weight" for name in before)
    after_ = [t for o in trainer.optimizers for slots in o.state.values() for t in slots.values()]
    assert all(map(torch.equal, kept, after_))
    assert trainer.step_number == 1
    assert all(p.grad is None for p in trainer.model.parameters())


def test_an_infinite_gradient_of_a_finite_loss_is_refused():
    trainer = Trainer(config(), CORPUS)
    trainer.model.norm.weight.register_hook(lambda grad: grad * math.inf)
    with pytest.raises(ValueError, match=r"step 1 has a loss of \d.* gradient of norm (inf|nan)"):
        trainer.step()


def test_the_held_out_text_is_scored_in_windows_by_hand():
    trainer = Trainer(config(training={"length": 12}), CORPUS)
    nats, count = 0.0, 0
    for document in CORPUS.valid:
        for start in range(0, len(document) - 1, 12):
            ids = document[start : start + 13].long()
            logits, _ = trainer.model(ids[None, :-1])
            nats += float(F.cross_entropy(logits[0], ids[1:], reduction="sum").detach())
            count += len(ids) - 1
    assert count == sum(len(document) - 1 for document in CORPUS.valid)
    assert trainer.validate() == pytest.approx(nats / math.log(2) / count, rel=1e-5)
    assert trainer.validate(10**6) == trainer.validate()
    assert trainer.validate(48) != trainer.validate()
    read = sum(int(batch.real.sum()) for batch in trainer._held_out(48))
    assert 0 < read <= 48


def test_a_last_window_of_one_target_counts():
    document = torch.randint(256, (14,), dtype=torch.uint8)
    trainer = Trainer(config(training={"length": 12}), dataclasses.replace(CORPUS, valid=[document]))
    assert [int(batch.real.sum()) for batch in trainer._held_out(None)] == [13]


def test_processes_share_rows_equally_or_are_refused():
    shares = [Processes(rank, 4).share(8) for rank in range(4)]
    assert [list(range(8))[share] for share in shares] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    with pytest.raises(ValueError, match=r"8 windows .* by 3 processes; choose .* multiple of 3"):
        Processes(0, 3).share(8)


def test_the_model_learns_the_text():
    trainer = Trainer(config(training={"steps": 60}), CORPUS)
    before = trainer.validate()
    after(trainer, 60)
    assert trainer.validate() < before - 3


def test_every_preset_trains():
    from everlearn.models import PRESETS

    for name in PRESETS:
        one = config()
        trainer = Trainer(dataclasses.replace(one, model=preset(name, dim=16, num_layers=1, num_heads=1)), CORPUS)
        assert trainer.step().nats > trainer.step().nats - 30


@pytest.mark.slow
def test_compiled_blocks_compute_the_same():
    """Fused sums in another order: 6e-7 after two steps."""
    if shutil.which("g++") is None:
        pytest.skip("there is no C++ compiler here")
    assert 0 < apart(after(Trainer(config(), CORPUS), 2), after(Trainer(config(compile=True), CORPUS), 2)) < 1e-5
