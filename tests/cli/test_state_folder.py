"""The folder of a state: its kind, its own base, its marker, and one writer at a time."""

import shutil

import pytest
import torch
from verbs_fixture import tiny_base

from everlearn.cli import workspace
from everlearn.cli.errors import UserError
from everlearn.models import load_model

pytestmark = pytest.mark.usefixtures("small")


def test_a_state_folder_goes_on_with_its_own_base(shell):
    one, state = shell.folder / "texts/one.txt", shell.folder / "s"
    shell("read", one, "--state", state, "--base", shell.folder / "base")
    shell("read", one, "--state", state, "--base", shell.folder / "base")  # the same model is no other
    tiny_base(shell.folder / "other", seed=1)
    said = shell("read", one, "--state", state, "--base", shell.folder / "other", code=2)
    assert "was begun with another model than" in said
    shutil.rmtree(state / "base")
    assert "holds no model; make one" in shell("eval", one, "--state", state, code=2)


def test_without_a_base_one_is_trained_and_kept(shell, monkeypatch):
    trained = []

    def train(folder, seed, quick):
        trained.append((folder, seed, quick))
        tiny_base(folder)

    monkeypatch.setattr(workspace, "train_base", train)
    for _ in range(2):
        shell("read", shell.folder / "texts/one.txt", "--state", shell.folder / "s", "--seed", "4", "--quick")
    assert trained == [(shell.folder / "s" / "base", 4, True)]


def test_a_folder_is_prepared_for_one_kind_and_never_over_something_else(tmp_path):
    workspace.prepare(tmp_path / "new" / "state", "text")
    workspace.prepare(tmp_path / "new" / "state", "text")
    assert workspace.kind_of(tmp_path / "new" / "state") == "text"
    with pytest.raises(UserError, match="holds a memory of text, this is about labels"):
        workspace.prepare(tmp_path / "new" / "state", "labels")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file; give a folder"):
        workspace.prepare(tmp_path / "file", "text")
    with pytest.raises(UserError, match="is not empty and was not made by everlearn"):
        workspace.prepare(tmp_path, "text")
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked" / ".lock").touch()
    workspace.prepare(tmp_path / "locked", "labels")
    assert workspace.kind_of(tmp_path / "locked") == "labels"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not whole; restore it"),
        ("[]", "is not whole; restore it"),
        ('{"kind": "text"}', "is not whole; restore it"),
        ('{"kind": "text", "format": "x"}', "is not whole; restore it"),
        ('{"kind": "text", "format": 2}', "has state format 2, this version reads up to 1; update everlearn"),
        ('{"kind": "music", "format": 1}', "says kind 'music', which is neither"),
    ],
)
def test_a_marker_that_is_not_ours_is_refused(tmp_path, content, message):
    (tmp_path / "everlearn.json").write_text(content)
    with pytest.raises(UserError, match=message):
        workspace.kind_of(tmp_path)


def test_one_process_writes_at_a_time(tmp_path):
    with (
        workspace.sole_writer(tmp_path / "s"),
        pytest.raises(ValueError, match="another process is writing"),
        workspace.sole_writer(tmp_path / "s"),
    ):
        pass
    with workspace.sole_writer(tmp_path / "s"):
        assert (tmp_path / "s" / ".lock").exists()


def test_opening_a_reader_leaves_the_model_ready_to_be_learned_with(shell):
    """The model that a verb opens is the base's, moved and nothing else."""
    given = (shell.folder / "s", "me", shell.folder / "base", "cpu", 0, False)
    with workspace.writing_reader(*given):
        learner = workspace.open_reader(shell.folder / "s", "cpu")
    base, _ = load_model(shell.folder / "base")
    assert learner.model.fingerprint() == base.fingerprint()
    assert all(torch.equal(a, b) for a, b in zip(learner.model.parameters(), base.parameters(), strict=True))
    with pytest.raises(UserError, match="holds no model; make one"):
        workspace.open_reader(shell.folder / "t", "cpu")
