"""What needs two bands at once: a learner with a store behind it, and a folder that holds both."""

from __future__ import annotations

import json
from pathlib import Path

from everlearn.layout import ADAPTER, BASE, FORMAT, MARKER, REPLACED, USERS
from everlearn.learn.guard import Guard
from everlearn.learn.learner import Learner
from everlearn.learn.store_protocol import Store
from everlearn.memory.files import atomic_write
from everlearn.models.checkpoint import load_model, save_model
from everlearn.models.decoder import Decoder
from everlearn.models.protocol import Readable, TextModel
from everlearn.store.folder import FolderStore


def learner(
    model: TextModel | Readable, store: Store | Path | str | None = None, *, guard: Guard | None = None
) -> Learner:
    """Return a `Learner`; a path becomes a folder with one file per user.

    Args:
        model: see `Learner`.
        store: a folder, which is made when it is missing; any object with the methods of `Store`; or None to keep
            memories in this process only.
        guard: see `Learner`.
    """
    reader = Learner(model, guard=guard)  # refuses a model that cannot learn before a folder is made
    if isinstance(store, (str, Path)):
        store = FolderStore(Path(store), reader.model.fingerprint(), reader.model.initial_state(1))
    reader.store = store
    return reader


def save(reader: Learner, folder: Path | str) -> None:
    """Write a learner whole: its model, and the memory and notes of every user.

    A decoder is written with its parameters, and so is a hybrid (`ReplacedModel`). Of a stacked model only what
    stacking added is written; the pretrained base is named by its place and its hash and stays where it is.

    Args:
        reader: left as it is, with the store that it has.
        folder: made when it is missing; `load` takes it, and so does `everlearn eval --state`.
    Raises:
        ValueError: a model of another kind, which has no file format.
    """
    folder, model = Path(folder), reader.model
    save_text_model(model, folder / BASE)
    store = FolderStore(folder / USERS, model.fingerprint(), model.initial_state(1))
    for user in reader.known_users():
        store.save(user, reader.state(user), reader.notes(user))
    atomic_write(folder / MARKER, json.dumps({"format": FORMAT, "kind": "text"}).encode())


def load(folder: Path | str, base: Path | str | None = None) -> Learner:
    """Return the learner that `save`, or the command line, left in a folder; it goes on writing there.

    Args:
        folder: of the learner.
        base: where the pretrained model of a stacked one is now; None looks where it was.
    Raises:
        ValueError: no model there, one that is not whole, or a base that is gone or has changed.
    """
    folder = Path(folder)
    return learner(load_text_model(folder / BASE, base), folder / USERS)


def save_text_model(model: TextModel, folder: Path) -> None:
    """Write a decoder or a hybrid whole, or what stacking added to a pretrained model."""
    if isinstance(model, Decoder):
        save_model(model, folder)
        return
    from everlearn.convert import ReplacedModel, StackedModel

    if isinstance(model, ReplacedModel):
        model.save(folder)
        return
    if not isinstance(model, StackedModel):
        raise ValueError(
            f"a {type(model).__name__} has no file format here; give a learner of a Decoder, a StackedModel or a "
            "ReplacedModel"
        )
    model.save_adapter(folder)


def load_text_model(folder: Path, base: Path | str | None = None) -> TextModel:
    """Read what `save_text_model` wrote; see `load`."""
    if not (folder / ADAPTER).is_file():
        if base is not None:
            raise ValueError(f"{folder} holds a model that is whole by itself; leave out base={str(base)!r}")
        if (folder / REPLACED).is_file():
            from everlearn.convert import load_replaced

            return load_replaced(folder)
        return load_model(folder)[0]
    from everlearn.convert import load_adapter
    from everlearn.convert.adapter import load as read_adapter
    from everlearn.convert.hub import load_base

    place = base or read_adapter(folder)[0]["base"]["name"]
    if not place:
        raise ValueError(f"{folder} does not say where its base is; give it: base=FOLDER (on the command line --base)")
    try:
        pretrained, tokenizer = load_base(place)
    except ValueError as error:
        raise ValueError(f"the base of {folder} is not there: {error}; where it is now: --base FOLDER") from None
    return load_adapter(pretrained, folder, tokenizer)[0]
