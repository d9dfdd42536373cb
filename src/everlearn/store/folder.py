"""One file per user in a folder, and beside it a folder of what single documents taught: all checked whole on load."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from everlearn.memory.codec import check_fits, from_tensors, load_tensors, save_tensors, to_tensors
from everlearn.memory.files import remove_leftovers, remove_leftovers_of, sync_folder
from everlearn.memory.state import ModelState, Tensors
from everlearn.memory.users import user_name
from everlearn.store.archive import FolderArchive

HOUR = 3600.0


class FolderStore:
    """Keep each user's memory as one safetensors file, and archived documents in a folder beside it.

    A user's name never becomes a file name: files are named by its SHA-256, the name stands inside.

    Args:
        folder: made when it is missing.
        fingerprint: of the model whose memories these are (`Decoder.fingerprint()`).
        fresh: the model's `initial_state(1)`, which every loaded state must fit.
    """

    def __init__(self, folder: Path, fingerprint: str, fresh: ModelState) -> None:
        self.folder, self.fingerprint, self.fresh = Path(folder), fingerprint, fresh
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder, older_than=HOUR)

    def path(self, user: str) -> Path:
        """Return the file of a user; see `memory.users.user_name` for what a name may be."""
        return file_of(self.folder, user)

    def load(self, user: str) -> tuple[ModelState, dict[str, Any]] | None:
        """Return a user's state and notes, or None when there is none.

        Raises:
            ValueError: the file is truncated, changed, not finite, or belongs to another model or user.
        """
        path = self.path(user)
        if not path.exists():
            return None
        state, meta = self.read(path)
        if meta.get("user") != user_name(user):
            raise ValueError(f"{path} does not belong to user {user!r}; a memory file must not be renamed")
        return state, meta.get("notes", {})

    def read(self, path: Path) -> tuple[ModelState, dict[str, Any]]:
        """Return the state in a file, wherever it lies, with "user", "model" and "notes" as they were saved.

        Raises:
            ValueError: the file is truncated, changed, not finite, or belongs to another model.
        """
        tensors, meta = load_tensors(path)
        return self.check(tensors, meta, str(path)), meta

    def check(self, tensors: Tensors, meta: Mapping[str, Any], name: str) -> ModelState:
        """Return the state that a file's tensors hold; `name` is what to call it in an error, see `read`."""
        if meta.get("model") != self.fingerprint:
            raise ValueError(
                f"{name} is the memory of another model; read with the model that wrote it, or start a new folder"
            )
        state = from_tensors(tensors)
        check_fits(state, self.fresh, name)
        return state

    def save(self, user: str, state: ModelState, notes: dict[str, Any]) -> None:
        """Replace a user's file in one step; a crash leaves the old one or the new one."""
        self.write(self.path(user), user, state, notes)

    def write(self, path: Path, user: str, state: ModelState, notes: dict[str, Any]) -> None:
        """Write a file that `read` takes anywhere, such as a copy to carry away."""
        meta = {"user": user_name(user), "model": self.fingerprint, "notes": notes}
        save_tensors(path, to_tensors(state), meta)

    def shelf(self, user: str) -> FolderArchive:
        """Return where a user's archived documents are; the folder is made with the first of them."""
        return FolderArchive(documents_of(self.folder, user), self.fingerprint, user_name(user))

    def forget(self, user: str) -> bool:
        """Remove a user's file and documents; tell whether there was anything. Copies elsewhere are not reached."""
        return forget(self.folder, user)

    def users(self) -> list[str]:
        """Return the names of all users, sorted.

        Raises:
            ValueError: a file in the folder is damaged, or is no user's memory.
        """
        names = []
        for path in self.folder.glob("*.safetensors"):
            name = load_tensors(path)[1].get("user")
            if not isinstance(name, str):
                raise ValueError(f"{path} is no user's memory; move it out of the folder")
            names.append(name)
        return sorted(names)


def file_of(folder: Path, user: str) -> Path:
    """Return the file of a user in a folder; see `memory.users.user_name` for what a name may be."""
    return Path(folder) / f"{hashlib.sha256(user_name(user).encode()).hexdigest()}.safetensors"


def documents_of(folder: Path, user: str) -> Path:
    """Return the folder of a user's archived documents, which need not exist."""
    return file_of(folder, user).with_suffix(".documents")


def forget(folder: Path, user: str) -> bool:
    """Remove a user's file, archived documents and what killed writers left of them, for which no model is needed.

    Returns:
        whether there was anything. A crash on the way leaves the user known, so that it can be said once more.
    """
    path, documents = file_of(folder, user), documents_of(folder, user)
    known = path.exists() or documents.exists()
    forget_documents(folder, user)
    remove_leftovers_of(path)
    path.unlink(missing_ok=True)
    if Path(folder).is_dir():
        sync_folder(Path(folder))
    return known


def forget_documents(folder: Path, user: str) -> None:
    """Remove all archived documents of a user."""
    if (documents := documents_of(folder, user)).exists():
        shutil.rmtree(documents)
