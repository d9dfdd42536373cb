"""Folders with texts, models and memories, in which the tests of the command line work."""

from pathlib import Path

import pytest
import torch
from bad_input_fixture import LINE, OTHER, TEXT
from verbs_fixture import ONE, TWO, Shell, tiny_base

from everlearn.cli import labels, learn
from everlearn.cli.main import main
from everlearn.levels import Level
from everlearn.models import Decoder, preset, save_model


@pytest.fixture
def shell(tmp_path, capsys):
    for name, data in (("one.txt", ONE), ("two.txt", TWO)):
        (tmp_path / "texts" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "texts" / name).write_bytes(data)
    tiny_base(tmp_path / "base")
    return Shell(tmp_path, capsys)


@pytest.fixture
def small(monkeypatch):
    """Measure no damage and project to few features.

    The held-out modules take a second to find, one test measures them; a projection to 2,000 features takes half.
    """
    monkeypatch.setattr(labels, "FEATURES", 64)
    monkeypatch.setattr(learn, "damage", lambda learner, user: {"before": 8.0, "after": 7.0, "files": 1})


@pytest.fixture(scope="module")
def made(tmp_path_factory, request) -> Path:
    """Make one of each: a base, another base, a memory of text, a memory of labels."""
    folder = tmp_path_factory.mktemp("made")
    for seed, name in enumerate(("base", "other")):
        torch.manual_seed(seed)
        levels = [Level("fast", 16, reset="document"), Level("slow", 32)]
        config = preset("delta_net", levels=levels, dim=8, num_layers=1, num_heads=1, hidden_dim=8, chunk_size=16)
        save_model(Decoder(config), folder / name)
    (folder / "t.txt").write_text(TEXT)
    (folder / "t.jsonl").write_text(LINE + OTHER)
    small = pytest.MonkeyPatch()
    small.setattr("everlearn.cli.labels.FEATURES", 50)
    request.addfinalizer(small.undo)
    assert main(["read", str(folder / "t.txt"), "--state", str(folder / "text"), "--base", str(folder / "base")]) == 0
    assert main(["learn", str(folder / "t.jsonl"), "--state", str(folder / "labels")]) == 0
    return folder


@pytest.fixture
def desk(made, tmp_path, monkeypatch) -> Path:
    """Work in a folder of our own, with the model at hand and a text to read."""
    (tmp_path / "t.txt").write_text(TEXT)
    (tmp_path / "base").symlink_to(made / "base")
    (tmp_path / "other").symlink_to(made / "other")
    monkeypatch.chdir(tmp_path)
    # what measures the damage reads Python's own library, which these tests are not about
    monkeypatch.setattr("everlearn.cli.learn.damage", lambda *_: {"before": 1.0, "after": 1.0, "files": 0})
    return tmp_path
