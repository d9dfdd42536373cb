"""Write a file so that a crash leaves the old one or the new one, never a mixture."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")  # the names that `atomic_write` gives to files under way


def atomic_write(path: Path, data: bytes, *, private: bool = True) -> None:
    """Replace `path` by `data`: temporary file, fsync, rename, fsync of the folder.

    Args:
        path: the file; its folder must exist.
        data: the whole content.
        private: only the owner may read it, as a memory asks for; False lets everyone read it.
    Raises:
        OSError: the disk is full, or the folder cannot be written; the old file is untouched.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            if not private:
                temporary.chmod(0o644)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def is_temporary(path: Path) -> bool:
    """Tell whether a file is one that `atomic_write` was writing."""
    return TEMPORARY.fullmatch(path.name) is not None


def remove_leftovers(folder: Path, *, older_than: float = 0.0) -> None:
    """Remove what processes that were killed have left of files they were writing, in a folder and below it.

    Args:
        folder: searched; one that does not exist is left alone.
        older_than: age in seconds. 0 only while this process alone may write there; an hour spares what others write.
    """
    for path in Path(folder).rglob(".*.tmp"):
        # its writer may finish it at any moment
        with contextlib.suppress(FileNotFoundError):
            if is_temporary(path) and time.time() - path.stat().st_mtime >= older_than:
                path.unlink()


def remove_leftovers_of(path: Path) -> None:
    """Remove what killed processes have left of one file; only while this process alone may write it."""
    for other in path.parent.glob(f".{path.name}.*.tmp"):
        other.unlink(missing_ok=True)


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold a folder for this process, and remove what a killed one has left; who only reads does not need it.

    Args:
        folder: made when it is missing.
    Raises:
        ValueError: another process is writing there.
    """
    if os.name != "posix":
        yield
        return
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process is writing {folder}; wait for it, or choose another folder") from None
        remove_leftovers(folder)
        yield


def sync_folder(folder: Path) -> None:
    """Make a rename or a deletion in `folder` durable, where the platform can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
