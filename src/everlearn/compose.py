"""What needs two bands at once: a learner with a store behind it."""

from __future__ import annotations

from pathlib import Path

from everlearn.learn.learner import Learner
from everlearn.learn.store_protocol import Store
from everlearn.models.decoder import Decoder
from everlearn.store.folder import FolderStore


def learner(model: Decoder, store: Store | Path | str | None = None) -> Learner:
    """Return a `Learner`; a path becomes a folder with one file per user.

    Args:
        model: see `Learner`.
        store: a folder, which is made when it is missing; any object with the methods of `Store`; or None to keep
            memories in this process only.
    """
    if isinstance(store, (str, Path)):
        store = FolderStore(Path(store), model.fingerprint(), model.initial_state(1))
    return Learner(model, store)
