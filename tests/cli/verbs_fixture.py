"""Run a verb as the shell would, on a base model that nobody has trained."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch

import everlearn
from everlearn.cli.main import main
from everlearn.learn import Learner
from everlearn.levels import Level
from everlearn.memory.codec import digest, to_tensors
from everlearn.models import Decoder, load_model, preset, save_model

CHUNK = 8
ONE = b"one file of text, read by a model that knows nothing yet. " * 2
TWO = b"another file, in which other words stand: alpha, beta, gamma. " * 2
RECORDS = [(f"{word} number {i}", label) for i in range(6) for word, label in (("apple pie", "fruit"), ("oak tree", 7))]


def tiny_base(folder: Path, seed: int = 0) -> Path:
    """Save a model of a few hundred parameters; return its folder."""
    torch.manual_seed(seed)
    levels = [Level("fast", CHUNK, 0.3, reset="document"), Level("slow", 2 * CHUNK, 0.3)]
    sizes = {"dim": 8, "num_layers": 1, "num_heads": 1, "hidden_dim": 8, "chunk_size": CHUNK}
    save_model(Decoder(preset("delta_net", levels=levels, **sizes)), folder)
    return folder


class Shell:
    """The command line in one folder."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def __call__(self, *words: str | Path, code: int = 0) -> str:
        """Run a command, expect an exit code, and return what it printed: standard error when it failed."""
        self.capsys.readouterr()
        got = main([str(word) for word in words])
        shown = self.capsys.readouterr()
        assert got == code, shown.err
        return shown.err if code else shown.out

    def json(self, *words: str | Path) -> dict:
        """Run a command with --json FILE and return the document."""
        file = self.folder / "out.json"
        self(*words, "--json", file)
        return json.loads(file.read_text())


def memory(state, user="me") -> str:
    """Return a hash of what a user's file on disk holds."""
    model, _ = load_model(state / "base")
    return digest(to_tensors(everlearn.Learner(model, state / "users").state(user)))


def stop_after(monkeypatch, pieces: int) -> None:
    """Interrupt every stream before the commit of its next piece but `pieces`."""
    commit, count = Learner._commit, itertools.count()

    def interrupted(self, states, notes):
        if next(count) >= pieces:
            raise KeyboardInterrupt
        commit(self, states, notes)

    monkeypatch.setattr(Learner, "_commit", interrupted)


def write_records(path, records) -> None:
    path.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in records))
