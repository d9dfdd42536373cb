"""What needs two bands at once: a learner with a store behind it."""

from __future__ import annotations

import json
from pathlib import Path

from everlearn.layout import BASE, FORMAT, MARKER, USERS
from everlearn.learn.learner import Learner
from everlearn.learn.store_protocol import Store
from everlearn.memory.files import atomic_write
from everlearn.models.checkpoint import load_model, save_model
from everlearn.models.decoder import Decoder
from everlearn.models.protocol import TextModel
from everlearn.store.folder import FolderStore


def learner(model: TextModel, store: Store | Path | str | None = None) -> Learner:
    """Return a `Learner`; a path becomes a folder with one file per user.

    Args:
        model: see `Learner`.
        store: a folder, which is made when it is missing; any object with the methods of `Store`; or None to keep
            memories in this process only.
    """
    if isinstance(store, (str, Path)):
        store = FolderStore(Path(store), model.fingerprint(), model.initial_state(1))
    return Learner(model, store)


def save(reader: Learner, folder: Path | str) -> None:
    """Write a learner whole: its model, and the memory and notes of every user.

    Args:
        reader: left as it is, with the store that it has.
        folder: made when it is missing; `load` takes it, and so does `everlearn eval --state`.
    """
    folder = Path(folder)
    if not isinstance(reader.model, Decoder):
        raise ValueError(f"a {type(reader.model).__name__} cannot be saved here; save a Decoder")
    save_model(reader.model, folder / BASE)
    store = FolderStore(folder / USERS, reader.model.fingerprint(), reader.model.initial_state(1))
    for user in reader.known_users():
        store.save(user, reader.state(user), reader.notes(user))
    atomic_write(folder / MARKER, json.dumps({"format": FORMAT, "kind": "text"}).encode())


def load(folder: Path | str) -> Learner:
    """Return the learner that `save`, or the command line, left in a folder; it goes on writing there.

    Raises:
        ValueError: no model there, or one that is not whole.
    """
    model, _ = load_model(Path(folder) / BASE)
    return learner(model, Path(folder) / USERS)
