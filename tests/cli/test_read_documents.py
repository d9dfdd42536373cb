"""Reading is stopped at every commit and started again: the memory is that of a run that was never stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import everlearn
from everlearn.cli.output import Output
from everlearn.cli.reading import read_documents, show
from everlearn.demo.corpus import Document
from everlearn.levels import Level
from everlearn.models import Decoder, preset
from everlearn.store import FolderStore

LEVELS = (Level("fast", 16, reset="document"), Level("slow", 32))
A = Document("a", b"to be or not to be, that is the question; whether it is nobler")
B = Document("b", b"in the mind to suffer the slings and arrows of outrageous fortune, or")
C = Document("c", b"to take arms")


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.fixture(scope="module")
def model() -> Decoder:
    torch.manual_seed(0)
    return Decoder(preset("delta_net", levels=LEVELS, dim=8, num_layers=1, num_heads=1, hidden_dim=8, chunk_size=16))


def run(model: Decoder, folder: Path, documents: list[Document], *, again: bool) -> list[str]:
    """Read as a fresh process would; return the names of the documents that it accounts for."""
    rows = read_documents(everlearn.Learner(model, folder), "ada", documents, Output(), again=again)
    return [row["name"] for row in rows]


def run_killed(model: Decoder, folder: Path, documents: list[Document], commits: int, monkeypatch, *, again: bool):
    """Read until that many commits are on the disk, then die."""
    save, left = FolderStore.save, commits

    def dying(store, user, state, notes):
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        save(store, user, state, notes)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(FolderStore, "save", dying)
        run(model, folder, documents, again=again)


def content(folder: Path) -> bytes:
    (file,) = folder.glob("*.safetensors")
    return file.read_bytes()


@pytest.mark.parametrize("again", [True, False], ids=["read", "learn"])
@pytest.mark.parametrize("documents", [[A, C, A], [C, C]], ids=["aca", "cc"])
def test_killed_after_any_commit_and_restarted_is_never_having_stopped(model, tmp_path, monkeypatch, documents, again):
    whole, commits = tmp_path / "whole", 0
    with monkeypatch.context() as patch:
        save = FolderStore.save

        def counting(*arguments):
            nonlocal commits
            commits += 1
            save(*arguments)

        patch.setattr(FolderStore, "save", counting)
        names = run(model, whole, documents, again=again)
    assert commits >= 1
    for n in range(commits):
        run_killed(model, folder := tmp_path / f"at{n}", documents, n, monkeypatch, again=again)
        finished = run(model, folder, documents, again=again)
        assert content(folder) == content(whole), n
        assert not again or finished == names


def test_read_reads_again_what_was_finished_and_learn_does_not(model, tmp_path):
    assert run(model, tmp_path, [A, C], again=False) == ["a", "c"]
    once = content(tmp_path)
    assert run(model, tmp_path, [A, C], again=False) == []
    assert run(model, tmp_path / "twice", [A, C, A], again=False) == ["a", "c"]
    assert content(tmp_path) == once
    assert run(model, tmp_path, [A, C], again=True) == ["a", "c"]
    assert content(tmp_path) != once


def test_a_document_that_comes_before_the_interrupted_one_is_never_mixed_into_it(model, tmp_path, monkeypatch):
    """`learn` on a folder that has grown: the open document is finished first, then the new one begins afresh."""
    run_killed(model, tmp_path / "x", [B], 2, monkeypatch, again=False)
    assert run(model, tmp_path / "x", [A, B], again=False) == ["b", "a"]
    run(model, tmp_path / "y", [B, A], again=False)
    assert content(tmp_path / "x") == content(tmp_path / "y")


def test_read_with_other_files_closes_the_interrupted_document(model, tmp_path, monkeypatch, capsys):
    run_killed(model, tmp_path, [B], 2, monkeypatch, again=True)
    assert run(model, tmp_path, [A, B], again=True) == ["a", "b"]
    assert "an interrupted document is not the next one here; it ends at byte 33" in capsys.readouterr().out
    rows = everlearn.Learner(model, tmp_path).notes("ada")["documents"].values()
    frozen = everlearn.Learner(model)
    for row, document in zip(sorted(rows, key=lambda row: row["name"]), [A, B], strict=True):
        assert row["bytes"] == len(document.data)
        assert row["frozen"] == frozen.score(document.data).bits_per_byte


def test_names_are_shown_as_they_are(capsys):
    """Square brackets are markup to the table's library, and `[/]` alone is an error to it."""
    show([{"name": "x[/]y [red].txt", "bytes": 2, "frozen": 1.0, "learned": 0.5}], Output())
    assert "x[/]y [red].txt" in capsys.readouterr().out
