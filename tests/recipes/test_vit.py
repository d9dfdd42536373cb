"""A run of the vision Transformer: one result for a seed, bit-exact after any interrupt, and clear where it refuses."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch

from everlearn.models.vit import ViTConfig
from everlearn.recipes import vit
from everlearn.recipes.images import TensorImages
from everlearn.recipes.optimizers import LRS, OPTIMIZERS, Rates, Schedule
from everlearn.recipes.vit_trainer import ViTRun, ViTTrainer

SHAPE = ViTConfig(image_size=4, patch_size=2, num_classes=2, dim=16, num_layers=2, num_heads=2, hidden_dim=16)


def bright(count, seed):
    """Return images of 4 x 4: class 1 is bright in the left half, class 0 in the right."""
    dice = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (count,), generator=dice)
    images = torch.rand(count, 1, 4, 4, generator=dice) - 1
    images[..., :2] += labels[:, None, None, None]
    images[..., 2:] += 1 - labels[:, None, None, None]
    return images, labels


IMAGES = TensorImages(("right", "left"), *bright(60, 0), *bright(40, 1))


def config(name="m3", steps=12, **changes):
    rates = Rates(lr=LRS[name])
    schedule = Schedule(steps=steps, warmup=3, decay=0.4)
    return ViTRun(model=SHAPE, optimizer=name, rates=rates, schedule=schedule, batch_size=8, **changes)


def weights(folder):
    model, _ = vit.load(folder)
    return list(model.parameters())


class Interrupted(Exception):
    pass


def interrupt_at(step):
    def on_step(number, loss):
        if number == step:
            raise Interrupted

    return on_step


@pytest.mark.parametrize(
    # one with slots, one that captures inputs, one with a slow memory; tests/optim resumes every one of them
    "name",
    [
        name if name in ("adamw", "dgd_adamw", "m3") else pytest.param(name, marks=pytest.mark.slow)
        for name in OPTIMIZERS
    ],
)
def test_every_optimizer_of_the_table_goes_on_bit_for_bit(name, tmp_path):
    """Stopped twice, between two checkpoints and right after one, also between refreshes of a slow memory."""
    whole = vit.run(config(name, 14), IMAGES, tmp_path / "whole", save_every=3, test_every=5)
    for step in (7, 9):
        with pytest.raises(Interrupted):
            vit.run(config(name, 14), IMAGES, tmp_path / "cut", save_every=3, test_every=5, on_step=interrupt_at(step))
    cut = vit.run(config(name, 14), IMAGES, tmp_path / "cut", save_every=3, test_every=5)
    assert {**whole, "seconds": 0} == {**cut, "seconds": 0}
    assert all(map(torch.equal, weights(tmp_path / "whole"), weights(tmp_path / "cut")))
    assert (tmp_path / "whole" / "log.jsonl").read_text() == (tmp_path / "cut" / "log.jsonl").read_text()


def test_the_log_holds_the_loss_of_every_step_and_what_was_tested(tmp_path):
    summary = vit.run(config(), IMAGES, tmp_path, test_every=5)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 13))
    tested = {line["step"]: line["test_loss"] for line in lines if "test_loss" in line}
    assert list(tested) == [5, 10, 12] and tested[12] == summary["test_loss"]
    # warm-up over 3 steps, level up to 60 % of the run, then linear: (12 - 11) / 4.8 of the peak at the last step
    rates = [line["lr"] / LRS["m3"] for line in lines if "loss" in line]
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1]) and rates[-1] == pytest.approx(1 / 4.8)
    trainer = ViTTrainer(config(), IMAGES)
    assert [line["loss"] for line in lines if "loss" in line] == [trainer.step() for _ in range(12)]


@pytest.mark.parametrize("name", ["adamw", "preconditioned", "muon", "m3", "dgd_adamw"])
def test_an_easy_difference_is_learned(name, tmp_path):
    """Half of the image is brighter: 60 images and 120 steps are enough for every image of the test."""
    summary = vit.run(config(name, 120), IMAGES, tmp_path)
    assert summary["test_accuracy"] == 1.0
    model, classes = vit.load(tmp_path)
    with torch.no_grad():
        right = model(IMAGES.test).argmax(-1) == IMAGES.test_labels
    assert bool(right.all()) and classes == ("right", "left")


def test_every_image_comes_once_in_an_epoch_and_epochs_differ():
    trainer = ViTTrainer(dataclasses.replace(config(), batch_size=20), IMAGES)
    seen = []
    for trainer.step_number in range(6):
        batch, _ = trainer._batch()
        seen += [row.numpy().tobytes() for row in batch]
    every = sorted(row.numpy().tobytes() for row in IMAGES.train)
    assert sorted(seen[:60]) == sorted(seen[60:]) == every
    assert seen[:60] != seen[60:]


def test_clip_bounds_the_step_of_plain_momentum():
    """Without warm-up the first step of momentum is lr times the gradient, whose norm is the bound."""
    run = dataclasses.replace(config("momentum"), clip=1e-3, schedule=Schedule(steps=5, warmup=0, decay=0.0))
    trainer = ViTTrainer(run, IMAGES)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.step()
    moved = (
        sum(float((a - b.detach()).square().sum()) for a, b in zip(before, trainer.model.parameters(), strict=True))
        ** 0.5
    )
    assert moved == pytest.approx(1e-3 * LRS["momentum"], rel=1e-2)


def test_another_run_other_images_and_other_folders_are_refused(tmp_path):
    vit.run(config(), IMAGES, tmp_path / "a")
    with pytest.raises(ValueError, match=r"a holds another run .seed 0, now 1.; go on with its own options"):
        vit.run(config(seed=1), IMAGES, tmp_path / "a")
    with pytest.raises(ValueError, match=r"the images are not those that the run in .*a was begun with"):
        vit.run(config(), IMAGES.with_label_noise(0.5, 0), tmp_path / "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file is a file; a run needs a folder"):
        vit.run(config(), IMAGES, tmp_path / "file")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("")
    with pytest.raises(ValueError, match=r"other is not empty and holds no run"):
        vit.run(config(), IMAGES, tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.txt"]
    with pytest.raises(ValueError, match="other holds no run"):
        vit.load(tmp_path / "other")


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_what_was_saved(tmp_path):
    run = config("momentum", 40)
    wild = dataclasses.replace(run, rates=Rates(lr=1e30), schedule=Schedule(steps=40, warmup=0, decay=0))
    with pytest.raises(
        ValueError, match=r"the loss of step \d+ is (nan|inf); training needs a finite one: lower lr 1e\+30"
    ):
        vit.run(wild, IMAGES, tmp_path, save_every=1)
    model, _ = vit.load(tmp_path)
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 0}, "batch_size is 0; a step takes at least one image"),
        ({"clip": -1.0}, "clip is -1.0; it must be a number above 0"),
        ({"seed": -1}, "seed is -1; it must be a whole number from 0"),
        ({"seed": 2**70}, "seed is 1180591620717411303424; it must be a whole number from 0"),
        ({"smoothing": 1.0}, r"smoothing is 1.0; it must lie in \[0, 1\)"),
        ({"optimizer": "sgdd"}, "optimizer 'sgdd' is unknown; the names are adamw, momentum"),
        ({"model": dataclasses.replace(SHAPE, num_classes=3)}, r"takes \(channels, pixels, classes\) \(1, 4, 3\)"),
    ],
)
def test_a_run_that_cannot_be_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        ViTTrainer(dataclasses.replace(config(), **changes), IMAGES)


def test_numbers_of_rates_and_schedules_are_checked():
    with pytest.raises(ValueError, match="adamw_lr is 0; a step size is a number above 0"):
        Rates(lr=1.0, adamw_lr=0)
    with pytest.raises(ValueError, match="weight_decay is -1; it must be a number of at least 0"):
        Rates(lr=1.0, weight_decay=-1)
    with pytest.raises(ValueError, match="a schedule of 0 steps with a warm-up of 20 is none"):
        Schedule(steps=0)
    with pytest.raises(ValueError, match=r"decay is 2; it is a share of the steps, in \[0, 1\]"):
        Schedule(steps=1, decay=2)


def test_the_command_trains_on_a_folder_of_pictures_and_goes_on(tmp_path, capsys):
    Image = pytest.importorskip("PIL.Image")
    for name, colour in (("cold", (0, 0, 255)), ("warm", (255, 0, 0))):
        (tmp_path / "data" / name).mkdir(parents=True)
        for n in range(12):
            picture = Image.new("RGB", (40, 40), tuple(max(0, part - 9 * n) for part in colour))
            picture.save(tmp_path / "data" / name / f"{n}.png")
    words = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "run"), "--steps", "20", "--batch-size", "8"]
    words += ["--optimizer", "muon", "--warmup", "2", "--device", "cpu"]
    assert vit.main(words) == 0
    out, err = capsys.readouterr()
    assert "100.0 % right" in out and "22 images of 2 classes" in err
    assert vit.main(words) == 0
    assert "goes on after step 20 of 20" in capsys.readouterr().err
    (tmp_path / "data" / "warm" / "3.png").write_bytes(b"no image")
    assert vit.main([*words[:3], str(tmp_path / "new"), *words[4:]]) == 1
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("error: ") and "3.png cannot be read as an image" in err


def test_an_interrupt_ends_with_130_and_the_same_command_goes_on(tmp_path, capsys, monkeypatch):
    words = ["--out", str(tmp_path), "--steps", "3", "--save-every", "1", "--device", "cpu", "--batch-size", "4"]
    step = ViTTrainer.step

    def stopped(trainer):
        if trainer.step_number == 2:
            raise KeyboardInterrupt
        return step(trainer)

    monkeypatch.setattr(ViTTrainer, "step", stopped)
    assert vit.main(words) == 130
    assert "interrupted; the same command goes on" in capsys.readouterr().err
    monkeypatch.setattr(ViTTrainer, "step", step)
    assert vit.main(words) == 0
    assert "goes on after step 2 of 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--save-every", "0"], "save_every is 0; it counts steps"),
        (["--test-every", "-3"], "test_every is -3; it counts steps"),
        (["--patch-size", "0"], "patch_size is 0; it must be a whole number of at least 1"),
        (["--data", ".", "--image-size", "0"], "images of 0 pixels are none"),
        (["--out", "/proc/none"], "/proc/none"),
    ],
)
def test_a_command_that_cannot_be_is_one_line(tmp_path, capsys, words, message):
    assert vit.main(["--out", str(tmp_path / "run"), "--steps", "2", "--batch-size", "2", *words]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line


@pytest.mark.parametrize("damage", ["{", "[]", '{"run": {}}'])
def test_a_damaged_run_is_refused(tmp_path, damage):
    vit.run(config(steps=4), IMAGES, tmp_path)
    (tmp_path / "run.json").write_text(damage)
    for act in (lambda: vit.run(config(steps=4), IMAGES, tmp_path), lambda: vit.load(tmp_path)):
        with pytest.raises(ValueError, match=r"run\.json is not what a run wrote; restore it"):
            act()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["muon", "m3", "m3_fast"])
def test_digits_are_learned(name, tmp_path):
    """200 steps of 64 images, half a minute: nine in ten images that were never seen."""
    code = f"from everlearn.recipes.vit import main; main(['--out', {str(tmp_path)!r}, '--optimizer', {name!r}])"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert json.loads((tmp_path / "summary.json").read_text())["test_accuracy"] > 0.9
