"""Run a verb as the shell would, on a base model that nobody has trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from everlearn.cli.main import main
from everlearn.levels import Level
from everlearn.models import Decoder, preset, save_model

CHUNK = 8
ONE = b"one file of text, read by a model that knows nothing yet. " * 2
TWO = b"another file, in which other words stand: alpha, beta, gamma. " * 2


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
