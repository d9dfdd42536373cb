"""Files that survive a full disk at any moment, and what killed writers leave behind."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from everlearn.memory import files


def full_at(call: str, n: int, monkeypatch) -> None:
    """Let the n-th call of one of the system's functions fail as on a full disk."""
    left = n
    original = getattr(os, call)

    def failing(*arguments, **options):
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(*arguments, **options)

    monkeypatch.setattr(os, call, failing)


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
@pytest.mark.parametrize("n", [1, 2])
def test_a_disk_that_is_full_at_any_call_leaves_the_old_file_or_the_new_one_and_nothing_else(
    tmp_path, monkeypatch, call, n
):
    file = tmp_path / "state"
    files.atomic_write(file, b"old")
    with monkeypatch.context() as patch:
        full_at(call, n, patch)
        try:
            files.atomic_write(file, b"new")
            failed = False
        except OSError as error:
            assert error.errno == errno.ENOSPC
            failed = True
    assert file.read_bytes() in ((b"old", b"new") if failed else (b"new",))
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_leftovers_of_killed_writers_are_removed_and_nothing_else_is(tmp_path):
    (tmp_path / "users").mkdir()
    (handle, name) = files.tempfile.mkstemp(prefix=".a.safetensors.", suffix=".tmp", dir=tmp_path / "users")
    os.close(handle)
    others = [tmp_path / name for name in (".lock", "notes.tmp", ".hidden.tmp", "a.safetensors")]
    for other in others:
        other.write_text("x")
    files.remove_leftovers(tmp_path, older_than=60)
    assert Path(name).exists()
    files.remove_leftovers(tmp_path)
    assert not Path(name).exists()
    assert all(other.exists() for other in others)
    files.remove_leftovers(tmp_path / "missing")
