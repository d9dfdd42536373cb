"""What needs two bands at once: a learner with a store behind it, and a folder that holds both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlearn.layout import ADAPTER, BASE, FORMAT, MARKER, REPLACED, USERS
from everlearn.learn.guard import Guard
from everlearn.learn.learner import Learner
from everlearn.learn.memories import MakeArchive
from everlearn.learn.settings import archive_of, archive_settings, slot_settings, slots_from
from everlearn.learn.store_protocol import Store
from everlearn.memory.files import atomic_write
from everlearn.memory.slots import SlotMemory
from everlearn.models.checkpoint import load_model, save_model
from everlearn.models.decoder import Decoder
from everlearn.models.protocol import Readable, TextModel
from everlearn.store.folder import FolderStore

if TYPE_CHECKING:
    from torch import nn


def learner(
    model: TextModel | Readable,
    store: Store | Path | str | None = None,
    *,
    guard: Guard | None = None,
    archive: MakeArchive | None = None,
    slots: SlotMemory | None = None,
) -> Learner:
    """Return a `Learner`; a path becomes a folder with one file per user, and one folder of documents.

    Args:
        model: see `Learner`.
        store: a folder, which is made when it is missing; any object with the methods of `Store`; or None to keep
            memories in this process only.
        guard, archive, slots: see `Learner`.
    """
    if isinstance(store, (str, Path)):
        # refuses a model that cannot learn before a folder is made
        reader = Learner(model, guard=guard, archive=archive, slots=slots)
        store = FolderStore(Path(store), reader.model.fingerprint(), reader.fresh)
    return Learner(model, store, guard=guard, archive=archive, slots=slots)


def save(reader: Learner, folder: Path | str) -> None:
    """Write a learner whole: its model, how it keeps documents and slots, and all that it keeps of every user.

    A decoder is written with its parameters, and so is a hybrid (`ReplacedModel`), levels stacked on it or not. Of a
    stacked pretrained model only what stacking added is written; the base is named by its place and its hash and stays
    where it is.

    Args:
        reader: left as it is, with the store that it has.
        folder: made when it is missing; `load` takes it, and so does `everlearn eval --state`.
    Raises:
        ValueError: a model of another kind, or an archive made in a way of one's own, which have no file format.
    """
    folder, model, marker = Path(folder), reader.model, {"format": FORMAT, "kind": "text", **settings_of(reader)}
    save_text_model(model, folder / BASE)
    store = FolderStore(folder / USERS, model.fingerprint(), reader.fresh)
    for user in reader.known_users():
        archive, shelf = reader.user_archive(user), store.shelf(user)
        for entry in archive.entries() if archive else []:
            shelf.save(entry)
        store.save(user, reader.state(user), reader.notes(user))
    atomic_write(folder / MARKER, json.dumps(marker).encode())


def settings_of(reader: Learner) -> dict[str, Any]:
    """Return how a learner keeps documents and slots, as JSON data; nothing where it keeps neither."""
    found = {"archive": archive_settings(reader.archive), "slots": slot_settings(reader.slots)}
    return {name: own for name, own in found.items() if own is not None}


def keeping(folder: Path | str) -> dict[str, Any]:
    """Return how the learner of a folder keeps documents and slots, as arguments of `learner`.

    Raises:
        ValueError: the folder says something that this version does not know.
    """
    marker = Path(folder) / MARKER
    said = json.loads(marker.read_text()) if marker.is_file() else {}
    return {"archive": archive_of(said.get("archive")), "slots": slots_from(said.get("slots"))}


def load(folder: Path | str, base: Path | str | None = None) -> Learner:
    """Return the learner that `save`, or the command line, left in a folder; it goes on writing there.

    Args:
        folder: of the learner.
        base: where the pretrained model of a stacked one is now; None looks where it was.
    Raises:
        ValueError: no model there, one that is not whole, or a base that is gone or has changed.
    """
    folder = Path(folder)
    return learner(load_text_model(folder / BASE, base), folder / USERS, **keeping(folder))


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
    if model.hybrid is not None:
        model.hybrid.save(folder)
    model.save_adapter(folder)


def load_text_model(folder: Path, base: Path | str | None = None) -> TextModel:
    """Read what `save_text_model` wrote; see `load`."""
    stacked, replaced = ((folder / name).is_file() for name in (ADAPTER, REPLACED))
    if base is not None and (replaced or not stacked):
        raise ValueError(f"{folder} holds a model that is whole by itself; leave out base={str(base)!r}")
    if not stacked and not replaced:
        return load_model(folder)[0]
    from everlearn.convert import load_adapter, load_replaced

    if not stacked:
        return load_replaced(folder)
    pretrained, tokenizer = (load_replaced(folder), None) if replaced else _base_of(folder, base)
    return load_adapter(pretrained, folder, tokenizer)[0]


def _base_of(folder: Path, base: Path | str | None) -> tuple[nn.Module, Any]:
    """Return the pretrained model, or the hybrid, that an adapter names, and its tokenizer."""
    from everlearn.convert import load_replaced
    from everlearn.convert.adapter import load as read_adapter
    from everlearn.models.hub import load_base

    place = base or read_adapter(folder)[0]["base"]["name"]
    if not place:
        raise ValueError(f"{folder} does not say where its base is; give it: base=FOLDER (on the command line --base)")
    try:
        return (load_replaced(place), None) if (Path(place) / REPLACED).is_file() else load_base(place)
    except ValueError as error:
        raise ValueError(f"the base of {folder} is not there: {error}; where it is now: --base FOLDER") from None
