"""A write that fails at any step leaves the old file whole, and nothing beside it."""

import errno
import os
import tempfile
from pathlib import Path

import pytest

from everlearn.memory.files import atomic_write, sync_folder


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


class FullDisk:
    """A file whose `write` fails after half of the data."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, data):
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        no_space()


def test_the_file_holds_the_data_and_nothing_lies_beside_it(tmp_path):
    path = tmp_path / "memory"
    for data in (b"one", b"", b"\x00" * 70_000):
        atomic_write(path, data)
        assert path.read_bytes() == data
        assert list(tmp_path.iterdir()) == [path]


STEPS = {
    "create": (tempfile, "mkstemp", no_space),
    "fsync": (os, "fsync", no_space),
    "rename": (Path, "replace", no_space),
}


@pytest.mark.parametrize("step", [*STEPS, "write"])
@pytest.mark.parametrize("old", [b"what it knew", None], ids=["old file", "no file"])
def test_a_failure_leaves_the_old_file_and_no_temporary_one(step, old, tmp_path, monkeypatch):
    path = tmp_path / "memory"
    if old is not None:
        path.write_bytes(old)
    before = sorted(tmp_path.iterdir())
    fdopen = os.fdopen
    target, name, broken = STEPS.get(step, (os, "fdopen", lambda *args: FullDisk(fdopen(*args))))
    with monkeypatch.context() as patch:
        patch.setattr(target, name, broken)
        with pytest.raises(OSError, match="No space left"):
            atomic_write(path, b"what it knows now")
    assert sorted(tmp_path.iterdir()) == before
    assert old is None or path.read_bytes() == old


def test_an_interrupt_cleans_up_too(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            atomic_write(tmp_path / "memory", b"data")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_right_after_the_rename_is_an_interrupt(tmp_path, monkeypatch):
    replace = Path.replace

    def interrupted(self, target):
        replace(self, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "memory", b"data")
    assert (tmp_path / "memory").read_bytes() == b"data"


def test_a_temporary_file_is_hidden_and_named_after_what_it_will_be(tmp_path, monkeypatch):
    """A process that is killed leaves one behind; no search for memories may take it for one."""
    names = []
    replace = Path.replace

    def noted(self, target):
        names.append(self.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", noted)
    atomic_write(tmp_path / "ada.safetensors", b"data")
    assert names[0].startswith(".ada.safetensors.") and names[0].endswith(".tmp")


def test_the_data_is_on_disk_before_the_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    """The order that makes a crash harmless: content, rename, folder."""
    done = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(handle):
        done.append("folder" if Path(f"/proc/self/fd/{handle}").is_dir() else "file")
        fsync(handle)

    def noted_replace(self, target):
        done.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    atomic_write(tmp_path / "memory", b"data")
    assert done[1] == "rename" and len(done) == 3
    if Path("/proc/self/fd").exists():
        assert done == ["file", "rename", "folder"]


def test_where_folders_cannot_be_synced_nothing_is_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "name", "nt")
    monkeypatch.setattr(os, "open", no_space)
    sync_folder(tmp_path)


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        atomic_write(tmp_path / "nowhere" / "memory", b"data")


def test_a_memory_is_its_owners_and_a_page_is_everyones(tmp_path):
    for private, mode in ((True, 0o600), (False, 0o644)):
        atomic_write(tmp_path / "f", b"x", private=private)
        assert (tmp_path / "f").stat().st_mode & 0o777 == mode
