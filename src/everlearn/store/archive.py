"""An archive in a folder: one file per document, written atomically, checked whole on load, removed on request."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from everlearn.memory.archived import Archived
from everlearn.memory.codec import load_tensors, save_tensors
from everlearn.memory.files import remove_leftovers, remove_leftovers_of, sync_folder
from everlearn.memory.state import Tensors
from everlearn.memory.users import plain_name

HOUR = 3600.0


class FolderArchive:
    """Keep each archived state as one safetensors file.

    A document's name never becomes a file name: files are named by its SHA-256, the name stands inside. Users who
    should not see each other's documents need a folder each.

    Args:
        folder: made with the first document; for archives alone.
        fingerprint: of the model whose states these are (`Decoder.fingerprint()`).
        user: whose documents these are, said in each file, so that a folder under another user's name is refused.
    """

    def __init__(self, folder: Path, fingerprint: str, user: str | None = None) -> None:
        self.folder, self.fingerprint, self.user = Path(folder), fingerprint, user
        remove_leftovers(self.folder, older_than=HOUR)

    def path(self, name: str) -> Path:
        """Return the file of a document."""
        return self.folder / f"{hashlib.sha256(plain_name(name, 'document name').encode()).hexdigest()}.safetensors"

    def load(self) -> list[Archived]:
        """Return everything in the folder.

        Raises:
            ValueError: a file that is truncated, changed, renamed, no archived state, or another model's or user's.
        """
        return [self._read(path) for path in sorted(self.folder.glob("*.safetensors"))]

    def save(self, entry: Archived) -> None:
        """Replace a document's file in one step; a crash leaves the old one or the new one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        meta = {"document": entry.name, "order": entry.order, "model": self.fingerprint, "user": self.user}
        save_tensors(self.path(entry.name), entry.to_tensors(), meta)

    def forget(self, name: str) -> bool:
        """Remove a document's file; tell whether there was one. Copies elsewhere, and backups, are not reached."""
        path = self.path(name)
        known = path.exists()
        path.unlink(missing_ok=True)
        if self.folder.is_dir():
            remove_leftovers_of(path)
            sync_folder(self.folder)
        return known

    def _read(self, path: Path) -> Archived:
        """Return what is in a file."""
        tensors, meta = load_tensors(path)
        entry = _entry(tensors, meta, path)
        if self.path(entry.name) != path:
            raise ValueError(
                f"{path} is not the file of document {entry.name!r}; an archive's file must not be renamed"
            )
        if meta.get("model") != self.fingerprint:
            raise ValueError(
                f"{path} was archived with another model; use the model that wrote it, or start a new folder"
            )
        if meta.get("user") != self.user:
            raise ValueError(f"{path} does not belong to user {self.user!r}; an archive's folder must not be renamed")
        return entry


def entries_in(folder: Path) -> list[tuple[Archived, Path]]:
    """Return the archived states in a folder and their files, the oldest first, for which no model is needed.

    Raises:
        ValueError: a file that is truncated, changed, or no archived state.
    """
    found = [(_entry(*load_tensors(path), path), path) for path in Path(folder).glob("*.safetensors")]
    return sorted(found, key=lambda pair: pair[0].order)


def _entry(tensors: Tensors, meta: Mapping[str, Any], path: Path) -> Archived:
    """Return what is in a file, whoever it belongs to."""
    name, order = meta.get("document"), meta.get("order")
    if not isinstance(name, str) or not isinstance(order, int):
        raise ValueError(f"{path} is no archived state; move it out of the folder")
    return Archived.from_tensors(name, order, tensors)
