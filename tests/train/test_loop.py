"""Training a decoder: one seed is one result, every parameter has one optimizer, and the rate is the schedule's."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from everlearn.models.text import encode
from everlearn.train import TrainConfig, train
from everlearn.train.loop import _windows, optimizers, schedule
from tests.tiny import TEXT, byte_model

DATA = encode(TEXT * 4)
CONFIG = TrainConfig(steps=12, batch_size=4, length=16, lr=8e-3, adamw_lr=1e-2, warmup=3)


def model():
    return byte_model(dim=16, hidden_dim=16, num_heads=1).float()


def test_the_loss_falls_and_is_that_before_the_step():
    one, seen = model(), []
    window = _windows(DATA, CONFIG, torch.Generator().manual_seed(0))
    logits, _ = one(window[:, :-1])
    first = F.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten()).item() / math.log(2)
    losses = train(one, DATA, dataclasses.replace(CONFIG, steps=25), lambda step, loss: seen.append((step, loss)))
    assert losses[0] == pytest.approx(first, rel=1e-5)
    assert losses[-1] < losses[0] - 2
    assert seen == list(enumerate(losses, 1))
    assert not one.training


def test_a_seed_is_one_result_bit_for_bit():
    runs = []
    for seed in (0, 0, 1):
        one = model()
        torch.rand(3)  # what else draws random numbers does not matter
        losses = train(one, DATA, dataclasses.replace(CONFIG, steps=3, seed=seed))
        runs.append((losses, one.fingerprint()))
    assert runs[0] == runs[1]
    assert runs[0][1] != runs[2][1]


def test_a_text_shorter_than_a_window_is_refused():
    config = TrainConfig(steps=1, batch_size=2, length=16)
    with pytest.raises(ValueError, match=r"has 16 tokens, one window needs 17; .*set length below 16"):
        train(model(), DATA[:16], config)
    window = _windows(DATA[:17], config, torch.Generator().manual_seed(0))
    assert torch.equal(window, DATA[:17].expand(2, -1))  # the one window there is


def test_windows_are_pieces_of_the_text_and_reach_its_end():
    numbers = torch.arange(20)
    config = TrainConfig(steps=1, batch_size=200, length=16)
    windows = _windows(numbers, config, torch.Generator().manual_seed(0))
    assert windows.shape == (200, 17)
    assert torch.equal(windows - windows[:, :1], torch.arange(17).expand(200, -1))
    assert sorted(windows[:, 0].unique().tolist()) == [0, 1, 2, 3]


def test_theschedule_by_hand():
    """Four steps of warm-up, then a cosine over eight: its middle is half way between 1 and a tenth."""
    config = TrainConfig(steps=12, warmup=4)
    assert [schedule(step, config) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert schedule(4, config) == pytest.approx(1.0)
    assert schedule(8, config) == pytest.approx(0.55)
    assert schedule(12, config) == pytest.approx(0.1)
    assert schedule(6, config) == pytest.approx(0.1 + 0.45 * (1 + math.sqrt(0.5)))
    assert schedule(0, TrainConfig(steps=0, warmup=0)) == pytest.approx(1.0)
    assert schedule(1, TrainConfig(steps=1, warmup=0)) == pytest.approx(0.1)


def test_every_parameter_has_exactly_one_optimizer():
    one = model()
    muon, adamw = optimizers(one, CONFIG)
    owners = [[id(p) for group in o.param_groups for p in group["params"]] for o in (muon, adamw)]
    assert sorted(owners[0] + owners[1]) == sorted(id(p) for p in one.parameters())
    names = {id(p): name for name, p in one.named_parameters()}
    matrices = {names[i] for i in owners[0]}
    assert {"blocks.0.mixer.qkv.weight", "blocks.1.mlp.mlps.slow.down.weight"} <= matrices
    # gates have a row per head and convolutions a row per tap: thin matrices, which Muon would blow up
    assert not [name for name in matrices if "gates" in name or "conv" in name or "norm" in name]
    assert "embedding.weight" not in matrices
    narrow, wide = (byte_model(dim=16, hidden_dim=size, num_heads=1) for size in (8, 9))
    for one, owner in ((narrow, 1), (wide, 0)):
        up = one.memories()["blocks.0.mlp"].mlps["fast"].up.weight
        assert any(up is p for group in optimizers(one, CONFIG)[owner].param_groups for p in group["params"])
    assert (muon.param_groups[0]["peak"], adamw.param_groups[0]["peak"]) == (8e-3, 1e-2)


def test_the_rates_of_a_step_are_peak_timesschedule(monkeypatch):
    """AdamW's first step moves every weight by its rate, whatever the gradient: 1e-2 / 3 at a third of the warm-up."""
    one = model()
    before = one.norm.weight.detach().clone()
    train(one, DATA, dataclasses.replace(CONFIG, steps=1))
    moved = (one.norm.weight - before).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 1e-2 / 3), rtol=1e-3, atol=0)


def test_the_gradient_is_clipped_as_a_whole(monkeypatch):
    norms = []
    step = torch.optim.AdamW.step

    def noted(self, *arguments):
        norms.append(math.sqrt(sum(float(p.grad.square().sum()) for p in one.parameters() if p.grad is not None)))
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    monkeypatch.setattr(torch.optim.Muon, "zero_grad", lambda self, set_to_none=True: None)
    one = model()
    train(one, DATA, dataclasses.replace(CONFIG, steps=1, clip=0.01))
    assert norms == [pytest.approx(0.01, rel=1e-3)]
