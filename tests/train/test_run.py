"""A run that is stopped anywhere ends in the same bits; a folder holds one run of one text; damage is named."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from everlearn.models import load_model
from everlearn.models.alphabet import BYTES
from everlearn.models.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer
from everlearn.train import Progress, RunConfig, TrainConfig, run
from everlearn.train.corpus import Corpus, split, tokens
from everlearn.train.folder import read_run
from everlearn.train.log import lines
from everlearn.train.snapshot import capture, restore
from everlearn.train.trainer import Trainer
from tests.train.runs import TEXTS, config, steps, weights

ROOT = Path(__file__).resolve().parents[2]
WAYS = {
    "windows": config(),
    "carried streams": config(carry=True),
    "carried, in parts": config(carry=True, accumulate=2),
    "pieces of words": config(vocab=290),
    "bfloat16 and recomputing": config(bf16=True, recompute=True),
}


class Stopped(Exception):
    pass


def stop_after(number: int):
    def stop(progress: Progress) -> None:
        if progress.step.number == number:
            raise Stopped

    return stop


def log_of(folder: Path) -> list[dict]:
    """Return the log without what a clock says."""
    clocks = ("seconds", "tokens_per_second")
    return [{k: v for k, v in line.items() if k not in clocks} for line in lines(folder / "log.jsonl")]


@pytest.mark.parametrize("one", WAYS.values(), ids=WAYS)
def test_stopped_after_any_step_it_ends_in_the_same_bits(tmp_path, one):
    summary = run(one, TEXTS, tmp_path / "whole")
    for number in range(1, 6) if one == WAYS["carried, in parts"] else (3,):
        folder = tmp_path / str(number)
        with pytest.raises(Stopped):
            run(one, TEXTS, folder, on_step=stop_after(number))
        said: list[str] = []
        torch.rand(5)  # what else draws random numbers does not matter
        assert run(one, TEXTS, folder, say=said.append)["bits_per_byte"] == summary["bits_per_byte"]
        assert (f"goes on after step {number // 2 * 2} of 6" in said) == (number > 1)
        assert weights(folder) == weights(tmp_path / "whole")
        assert log_of(folder) == log_of(tmp_path / "whole")


def test_stopped_again_and_again(tmp_path):
    run(WAYS["carried streams"], TEXTS, tmp_path / "whole")
    for number in (1, 3, 3, 5, 5, 5):
        with pytest.raises(Stopped):
            run(WAYS["carried streams"], TEXTS, tmp_path / "r", on_step=stop_after(number))
    run(WAYS["carried streams"], TEXTS, tmp_path / "r")
    assert weights(tmp_path / "r") == weights(tmp_path / "whole")


def test_every_random_number_and_slot_is_in_the_checkpoint(tmp_path):
    """What the two checkpoints of step 6 hold is the same to the bit, whether or not the run was stopped before."""
    one = steps(config(carry=True), 6)
    run(one, TEXTS, tmp_path / "a")
    with pytest.raises(Stopped):
        run(one, TEXTS, tmp_path / "b", on_step=stop_after(5))
    run(one, TEXTS, tmp_path / "b")
    for name in ("weights.safetensors", "optimizer.safetensors"):
        files = [tmp_path / which / "checkpoints" / "step-00000006" / name for which in "ab"]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_a_finished_run_is_left_as_it_is(tmp_path):
    summary = run(config(), TEXTS, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert run(config(), TEXTS, tmp_path, on_step=stop_after(1)) == summary
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_a_run_leaves_behind(tmp_path):
    seen: list[Progress] = []
    summary = run(config(), TEXTS, tmp_path, on_step=seen.append)
    model, about = load_model(tmp_path)
    assert about["steps"] == 6
    assert about["trained_bytes"] == 6 * 64
    assert [file["name"] for file in about["data"]] == ["a", "b"]
    assert summary["parameters"] == sum(p.numel() for p in model.parameters())
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"step-00000004", "step-00000006"}
    held = split(TEXTS, 0.05).valid
    assert [p.read_bytes() for p in sorted((tmp_path / "heldout").iterdir())] == [part.data for part in held]
    log = lines(tmp_path / "log.jsonl")
    assert [line["step"] for line in log if "lr" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in log if "valid_bits_per_byte" in line] == [3, 6]
    assert (
        log[-1]["valid_bits_per_byte"]
        == summary["bits_per_byte"]
        == json.loads((tmp_path / "summary.json").read_text())["bits_per_byte"]
    )
    assert [p.step.number for p in seen] == [1, 2, 3, 4, 5, 6]
    assert seen[-1].seconds_left == 0
    assert all(p.tokens_per_second > 0 and p.seconds_left > 0 for p in seen[:-1])
    assert RunConfig.from_dict(read_run(tmp_path)["config"]) == config()


def test_a_model_can_be_used_before_its_run_is_finished(tmp_path):
    with pytest.raises(Stopped):
        run(config(), TEXTS, tmp_path, on_step=stop_after(3))
    assert load_model(tmp_path)[1]["steps"] == 2


def test_a_loss_that_is_not_finite_names_the_step_and_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    def poisoned(progress: Progress) -> None:
        if progress.step.number == 3:
            monkeypatch.setattr("everlearn.train.trainer.token_nll", lambda logits, targets: logits.sum(-1) * torch.nan)

    with pytest.raises(ValueError, match=r"step 4 has a loss of nan .*begin a new run.*step-00000002 stays") as error:
        run(config(valid_every=100), TEXTS, tmp_path, on_step=poisoned)
    assert "\n" not in str(error.value)
    assert load_model(tmp_path)[1]["steps"] == 2
    monkeypatch.undo()
    run(config(valid_every=100), TEXTS, tmp_path / "whole")
    run(config(valid_every=100), TEXTS, tmp_path)
    assert weights(tmp_path) == weights(tmp_path / "whole")


def refusal(one: RunConfig, texts: dict[str, bytes], folder: Path) -> str:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} if folder.is_dir() else {}
    with pytest.raises(ValueError, match=r"\w") as error:
        run(one, texts, folder)
    assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    return str(error.value)


def test_a_folder_that_holds_another_run_or_something_else(tmp_path):
    run(steps(config(), 1), TEXTS, tmp_path / "r")
    other = dataclasses.replace(config(), training=dataclasses.replace(config().training, lr=0.5))
    line = refusal(other, TEXTS, tmp_path / "r")
    assert "holds another run (training.steps: 1, now 6; training.lr: 0.008, now 0.5)" in line
    assert "choose a new folder" in line
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "notes.txt").write_text("mine")
    assert "is not empty and holds no run (run.json is missing)" in refusal(config(), TEXTS, tmp_path / "x")
    for damaged in ("", "{", "[]", '{"format": 1}', '{"format": 1, "config": {"model": {}}, "data": []}'):
        (tmp_path / "x" / "run.json").write_text(damaged)
        assert "run.json is not whole" in refusal(config(), TEXTS, tmp_path / "x")
    found = json.loads((tmp_path / "r" / "run.json").read_text())
    (tmp_path / "r" / "run.json").write_text(json.dumps(found | {"format": 2}))
    assert "its format is 2, this version reads up to 1" in refusal(steps(config(), 1), TEXTS, tmp_path / "r")


def test_data_that_changed_since_the_run_began(tmp_path):
    one = steps(config(), 1)
    run(one, TEXTS, tmp_path)
    line = refusal(one, {**TEXTS, "b": TEXTS["b"] + b"x"}, tmp_path)
    assert "b is not what the run" in line
    assert f"had {len(TEXTS['b'])} bytes, this has {len(TEXTS['b']) + 1}" in line
    assert "was begun with 2 files, got 1" in refusal(one, {"a": TEXTS["a"]}, tmp_path)
    assert "b is not what" in refusal(one, {"b": TEXTS["b"], "a": TEXTS["a"]}, tmp_path)
    run(one, {"moved/a": TEXTS["a"], "moved/b": TEXTS["b"]}, tmp_path)  # a name is no part of it


def test_too_little_text(tmp_path):
    assert "at least 512 bytes are needed" in refusal(config(), {"t": b"abc"}, tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path):
    run(config(), TEXTS, tmp_path / "whole")
    with pytest.raises(Stopped):
        run(config(), TEXTS, tmp_path / "r", on_step=stop_after(5))
    file = tmp_path / "r" / "checkpoints" / "step-00000004" / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    said: list[str] = []
    run(config(), TEXTS, tmp_path / "r", say=said.append)
    assert any(line.startswith("passed over: ") and "was changed after it was saved" in line for line in said)
    assert "goes on after step 2 of 6" in said
    assert weights(tmp_path / "r") == weights(tmp_path / "whole")


def test_a_vocabulary_that_was_changed_is_refused(tmp_path):
    one = config(vocab=290)
    with pytest.raises(Stopped):
        run(one, TEXTS, tmp_path, on_step=stop_after(3))
    other = train_tokenizer([part[::-1].decode() for part in TEXTS.values()], 290)
    assert len(other) == len(load_tokenizer(tmp_path / "tokenizer"))
    save_tokenizer(other, tmp_path / "tokenizer")
    with pytest.raises(ValueError, match=r"step 2 was saved with another vocabulary than the run's tokenizer has"):
        run(one, TEXTS, tmp_path)


def test_random_numbers_go_on_where_they_were():
    parts = split(TEXTS, 0.1)
    corpus = Corpus(tokens(parts.train, BYTES), tokens(parts.valid, BYTES))
    first = Trainer(config(), corpus)
    torch.rand(3)
    captured = capture(first, {})
    expected = torch.rand(4)
    second = Trainer(config(), corpus)
    assert restore(second, captured) == []
    assert torch.equal(torch.rand(4), expected)


def test_another_machine_or_number_of_threads_is_said(tmp_path, monkeypatch):
    with pytest.raises(Stopped):
        run(config(), TEXTS, tmp_path, on_step=stop_after(3))
    monkeypatch.setattr("torch.get_num_threads", lambda: 7)
    said: list[str] = []
    run(config(), TEXTS, tmp_path, say=said.append)
    assert any("equal to rounding, not to the bit (threads: 1, now 7)" in line for line in said)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"accumulate": 3}, "accumulate 3 does not divide batch_size 4; choose a divisor"),
        ({"accumulate": 0}, "accumulate is 0; it must be a whole number of at least 1"),
        ({"save_every": 1.5}, "save_every is 1.5"),
        ({"valid_share": 1.0}, "valid_share is 1.0; it must lie between 0 and 1"),
        ({"training": TrainConfig(steps=0)}, "steps is 0"),
        ({"training": TrainConfig(steps=1, lr=float("nan"))}, "lr is nan; it must be a number above 0"),
        ({"training": TrainConfig(steps=1, warmup=-1)}, "warmup is -1"),
    ],
)
def test_numbers_out_of_range(changes, match):
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(config(), **changes)


@pytest.mark.parametrize("one", WAYS.values(), ids=WAYS)
def test_a_config_survives_json(one):
    assert RunConfig.from_dict(json.loads(json.dumps(one.to_dict()))) == one


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda d: d | {"speed": 1}, "holds a field 'speed'; known fields: model, training, accumulate"),
        (lambda d: d | {"training": {"steps": 1, "x": 2}}, "holds a field 'x'"),
        (lambda d: d | {"training": {}}, "lacks 'steps'"),
        (lambda d: d | {"training": 3}, "holds a int"),
        (lambda d: {k: v for k, v in d.items() if k != "training"}, "lacks 'training'|lacks 'steps'"),
    ],
)
def test_an_edited_config_is_refused(edit, match):
    with pytest.raises(ValueError, match=match):
        RunConfig.from_dict(edit(config().to_dict()))


SCRIPT = """
import sys
from pathlib import Path
from everlearn.train import run
from tests.train.runs import TEXTS, config, steps
run(steps(config(carry=True), 40), TEXTS, Path(sys.argv[1]), say=lambda line: print(line, flush=True))
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_in_the_same_bits(tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, env=environment, capture_output=True)
    draw, kills = random.Random(0), 0
    for _ in range(12):
        process = subprocess.Popen([*command, str(tmp_path / "r")], env=environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()  # the data is read, the loop begins
        time.sleep(draw.uniform(0, 1.5))
        process.kill()
        kills += process.wait() != 0
        process.stdout.close()
    assert kills >= 4
    subprocess.run([*command, str(tmp_path / "r")], check=True, env=environment, capture_output=True)
    assert weights(tmp_path / "r") == weights(tmp_path / "whole")
