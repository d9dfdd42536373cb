"""A checkpoint is whole or not there: a full disk or a crash at any call leaves the ones before."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
import torch

from everlearn.train import checkpoint
from everlearn.train.checkpoint import Checkpoint, load, save, steps
from tests.memory.test_files_faults import full_at


def at(step: int) -> Checkpoint:
    return Checkpoint(step, {"w": torch.full((2,), float(step))}, {"random/cpu": torch.tensor([step])}, {"counts": {}})


def test_a_checkpoint_comes_back_and_the_last_two_are_kept(tmp_path):
    assert load(tmp_path) == (None, [])
    for step in (1, 9, 10, 100):
        save(tmp_path, at(step))
    assert steps(tmp_path) == ["step-00000010", "step-00000100"]
    found, complaints = load(tmp_path)
    assert found is not None
    assert (found.step, found.weights["w"].tolist(), found.rest["random/cpu"].tolist()) == (100, [100.0] * 2, [100])
    assert (found.about, complaints) == ({"counts": {}}, [])


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
@pytest.mark.parametrize("n", range(1, 7))
def test_a_disk_that_is_full_at_any_call_leaves_a_whole_checkpoint(tmp_path, monkeypatch, call, n):
    for step in (1, 2):
        save(tmp_path, at(step))
    with monkeypatch.context() as patch:
        full_at(call, n, patch)
        try:
            save(tmp_path, at(3))
            failed = False
        except OSError as error:
            assert error.errno == errno.ENOSPC
            failed = True
    found, complaints = load(tmp_path)
    assert found is not None
    assert found.step in ((2, 3) if failed else (3,))
    assert found.weights["w"].tolist() == [float(found.step)] * 2
    assert complaints == []
    save(tmp_path, at(4))
    assert steps(tmp_path)[-1] == "step-00000004"
    assert len(list(tmp_path.iterdir())) == 2  # what was cut short is gone


def test_the_mark_comes_last_and_goes_first(tmp_path, monkeypatch):
    """When a mark is written the tensors are there; when the files of an old checkpoint go, its mark is gone."""
    seen = []
    write = checkpoint.atomic_write

    def noted(path: Path, data: bytes) -> None:
        seen.append(sorted(p.name for p in path.parent.iterdir()))
        write(path, data)

    monkeypatch.setattr(checkpoint, "atomic_write", noted)
    removed = []
    monkeypatch.setattr(shutil, "rmtree", lambda path: removed.append((path / "checkpoint.json").exists()))
    for step in (1, 2, 3):
        save(tmp_path, at(step))
    assert seen == [["optimizer.safetensors", "weights.safetensors"]] * 3
    assert removed == [False]


def test_saving_a_step_again_takes_its_mark_away_first(tmp_path, monkeypatch):
    save(tmp_path, at(1))
    with monkeypatch.context() as patch:
        full_at("replace", 1, patch)
        with pytest.raises(OSError, match="No space"):
            save(tmp_path, at(1))
    assert load(tmp_path) == (None, [])


def test_damage_is_named_and_the_one_before_is_taken(tmp_path):
    for step in (1, 2):
        save(tmp_path, at(step))
    (tmp_path / "step-00000002" / "weights.safetensors").unlink()
    found, complaints = load(tmp_path)
    assert found is not None
    assert (found.step, len(complaints)) == (1, 1)
    for damaged in (b"", b"[]", b"{}", b'{"step": "x", "format": 1}', b"\xff"):
        (tmp_path / "step-00000001" / "checkpoint.json").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"no checkpoint in .* can be read: .*begin a new run in another folder"):
            load(tmp_path)
    (tmp_path / "step-00000001" / "checkpoint.json").write_text('{"step": 1, "format": 2}')
    shutil.rmtree(tmp_path / "step-00000002")
    with pytest.raises(ValueError, match=r"has format 2, this version reads up to 1; update everlearn"):
        load(tmp_path)


def test_the_files_of_two_steps_are_refused(tmp_path):
    for step in (1, 2):
        save(tmp_path, at(step))
    shutil.copy(tmp_path / "step-00000001" / "optimizer.safetensors", tmp_path / "step-00000002")
    found, complaints = load(tmp_path)
    assert found is not None
    assert found.step == 1
    assert "are of different steps" in complaints[0]


def test_what_is_not_ours_stays(tmp_path):
    others = [tmp_path / "step-00000001" / "mine.txt", tmp_path / "notes" / "checkpoint.json"]
    for other in others:
        other.parent.mkdir()
        other.write_text("x")
    for step in (2, 3, 4):
        save(tmp_path, at(step))
    assert all(other.exists() for other in others)
    assert steps(tmp_path) == ["step-00000003", "step-00000004"]
