"""What is kept of single documents: their names on the command line, and what reading one has done."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlearn.cli.errors import UserError

if TYPE_CHECKING:
    from everlearn.learn import Learner

LONGEST = 100  # characters of a path that are part of a document's name


def document_name(name: str, key: str) -> str:
    """Return the name under which a file is kept: its path as given, or the end of it with the hash of its content.

    Args:
        name: the path, in printable characters.
        key: the hash.
    """
    if name in ("base", "live"):  # the archive's words for what is no document
        return f"./{name}"
    return name if len(name) <= LONGEST else f"...{name[-LONGEST:]} {key[:8]}"


def document_names(learner: Learner, user: str) -> list[str]:
    """Return the names of all documents of which something is kept, and of the one that is open."""
    from everlearn.memory.in_state import open_document

    reading = open_document(learner.state(user))
    names = [document.name for document in learner.documents(user)] + ([reading.name] if reading else [])
    return list(dict.fromkeys(names))


def find_document(names: Sequence[str], given: str, user: str) -> str:
    """Return the name of the document that is meant: by its whole name, or by that of its file where only one has it.

    Raises:
        UserError: there is none, or there are several.
    """
    if given in names:
        return given
    alike = [name for name in names if Path(name).name == Path(given).name]
    if len(alike) == 1:
        return alike[0]
    there = f"it could be {', '.join(alike)}" if alike else f"there are {', '.join(names) or 'none'}"
    raise UserError(f"nothing is kept of a document {given!r} of {user}; {there}; see: everlearn memory show")


def what_happened(learner: Learner, name: str, count: int, steps: Mapping[str, int]) -> Iterator[str]:
    """Yield a line where a document was too short for a whole step: whether it taught anything, and what it needs.

    Args:
        learner: which has read it.
        name: of the document.
        count: of its tokens.
        steps: level -> how often it stepped.
    """
    levels = [level for memory in learner.model.memories().values() for level in memory.levels]
    counting = [(level, p) for level in levels if not isinstance(p := level.update_period, str) and math.isfinite(p)]
    periods = [int(period) for _, period in counting]
    if not periods or count > min(periods):
        return
    kept = "; its text is in the slots" if learner.slots is not None else ""
    # the first token of all is predicted by nothing
    short = f"{count} tokens, a step needs {min(periods) + 1}"
    waits = learner.archive is None and any(level.reset != "document" for level, _ in counting)
    if steps:
        yield f"{name}: {short}; at its end a share of a step was taken{kept}"
    elif waits and count > 1:
        yield f"{name}: nothing was learned yet: {short}; its gradient waits for more text{kept}"
    else:
        yield f"{name}: nothing was learned: {short}{kept}"


def forgotten_notes(learner: Learner, user: str, name: str) -> dict[str, Any]:
    """Return a user's notes without what they say of a document."""
    notes = learner.notes(user)
    finished, reading = notes.get("documents", {}), notes.get("open")
    left = {key: row for key, row in finished.items() if document_name(row["name"], key) != name}
    gone = reading is not None and reading.get("name") == name
    return {**notes, "documents": left} | ({"open": None, "plan": None} if gone else {})


def summary(file: Path) -> dict[str, Any]:
    """Return what a user's files say of themselves; the model is not loaded.

    Args:
        file: of the user; archived documents lie beside it.
    """
    from everlearn.memory.codec import from_tensors, load_tensors
    from everlearn.memory.in_state import open_document, read_documents
    from everlearn.store.archive import entries_in

    tensors, meta = load_tensors(file)
    state, notes = from_tensors(tensors), meta.get("notes", {})
    archived: list[dict[str, Any]] = [
        {"name": entry.name, "bytes": path.stat().st_size, "versions": 1 + (entry.before is not None)}
        for entry, path in entries_in(file.with_suffix(".documents"))
    ]
    reading = open_document(state)
    return {
        "user": meta["user"],
        "tokens_seen": int(tensors["tokens_seen"][0]),
        "bytes": file.stat().st_size + sum(kept["bytes"] for kept in archived),
        "documents": list(notes.get("documents", {}).values()),
        "open": bool(notes.get("open")),
        "open_document": None if reading is None else reading.name,
        "archived": archived,
        "slots": [{"name": each.name, "slots": each.slots} for each in read_documents(state) if each.slots],
        "file": str(file),
    }
