"""One user's memory in one file, to carry away and take in: the state, its notes, and the archived documents."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from everlearn.memory.archived import Archived
from everlearn.memory.codec import encode, load_tensors
from everlearn.memory.low_rank import decompress_state
from everlearn.memory.state import ModelState, Tensors
from everlearn.store.archive import entries_in
from everlearn.store.folder import FolderStore, documents_of, file_of, forget_documents

DOCUMENTS = "documents"  # of the tensors' names and of the header: "documents/0/now/..."


def pack(folder: Path, user: str) -> bytes:
    """Return one file that holds all that a folder keeps of a user; no model is needed.

    Without archived documents it is the user's own file, byte for byte.

    Raises:
        ValueError: a file that is damaged.
        FileNotFoundError: there is no such user.
    """
    file, documents = file_of(folder, user), entries_in(documents_of(folder, user))
    if not documents:
        return file.read_bytes()
    tensors, meta = load_tensors(file)
    for i, (entry, _) in enumerate(documents):
        tensors |= {f"{DOCUMENTS}/{i}/{name}": tensor for name, tensor in entry.to_tensors().items()}
    said = [{"document": entry.name, "order": entry.order} for entry, _ in documents]
    return encode(tensors, {**meta, DOCUMENTS: said})


def unpack(store: FolderStore, path: Path) -> tuple[ModelState, dict[str, Any], list[Archived]]:
    """Read and check what `pack` wrote.

    Args:
        store: whose model it must fit.
        path: of the file.
    Returns:
        state: of the user.
        meta: with "user", whose it was, and "notes".
        entries: the archived documents.
    Raises:
        ValueError: the file is damaged, or belongs to another model.
    """
    tensors, meta = load_tensors(path)
    own: Tensors = {}
    parts: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        number, _, leaf = rest.partition("/")
        (parts.setdefault(number, {}) if part == DOCUMENTS else own)[leaf if part == DOCUMENTS else name] = tensor
    state = store.check(own, meta, str(path))
    entries = [_entry(said, parts.get(str(i), {}), path) for i, said in enumerate(meta.get(DOCUMENTS, []))]
    for entry in entries:
        _check(entry, store.fresh, path)
    return state, meta, entries


def take_in(store: FolderStore, user: str, state: ModelState, notes: dict[str, Any], entries: list[Archived]) -> None:
    """Keep what `unpack` read as all that there is of a user.

    The documents that the user had go first and the new state comes last, so after a crash it is taken in once more.
    """
    forget_documents(store.folder, user)
    shelf = store.shelf(user)
    for entry in entries:
        shelf.save(entry)
    store.save(user, state, notes)


def _check(entry: Archived, fresh: ModelState, path: Path) -> None:
    """Refuse an archived document, or its earlier version, that cannot be what this model was taught."""
    for packed in (entry.packed, entry.before):
        try:
            if packed is not None:
                decompress_state(packed, fresh)
        except (ValueError, RuntimeError):
            raise ValueError(
                f"{path}: its archived document {entry.name!r} does not fit this model; take it in where it was written"
            ) from None


def _entry(said: Any, tensors: Tensors, path: Path) -> Archived:
    """Return one archived document of a file."""
    if not isinstance(said, Mapping) or not isinstance(said.get("document"), str):
        raise ValueError(f"{path} does not say which documents it holds; use another copy")
    return Archived.from_tensors(said["document"], int(said["order"]), tensors)
