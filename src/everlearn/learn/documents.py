"""What a document leaves behind, and how it is taken back: an archived state, and slots that are in the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from everlearn.layers.level_step import Update
from everlearn.learn.archive import Archive
from everlearn.learn.memories import Memories
from everlearn.memory.in_state import (
    DOCUMENT,
    SLOTS,
    begin,
    forget_documents,
    open_document,
    read_documents,
)
from everlearn.memory.slots import SlotMemory
from everlearn.memory.state import ModelState, with_layers
from everlearn.memory.users import plain_name

EVENT = "document"  # the event with which a document is over
Updates = Mapping[str, Mapping[str, Update]]


@dataclass(frozen=True)
class KeptDocument:
    """What is kept of one document.

    Args:
        name: under which it was read.
        nbytes: bytes of what it taught, archived, an earlier version too; 0 where there is no archive.
        versions: how many readings are archived: `roll_back_document` goes back by one.
        slots: slots that hold a token of it; they are its text.
    """

    name: str
    nbytes: int
    versions: int
    slots: int


def kept_documents(state: ModelState, archive: Archive | None) -> list[KeptDocument]:
    """Return what is kept of every document of a user, the oldest first."""
    found: dict[str, KeptDocument] = {}
    for entry in archive.entries() if archive else []:
        found[entry.name] = KeptDocument(entry.name, entry.nbytes(), 1 + (entry.before is not None), 0)
    for document in read_documents(state):
        if document.slots:
            old = found.get(document.name, KeptDocument(document.name, 0, 0, 0))
            found[document.name] = replace(old, slots=old.slots + document.slots)
    return list(found.values())


def opened(memories: Memories, user: str, name: str | None, event: str) -> ModelState:
    """Return a user's state with the document that is read from here on named in it, where names have a use.

    Args:
        memories: of all users.
        user: who reads.
        name: of the document; None keeps that of the open one, or makes one.
        event: what the end of the text will be; turns go on in the document of the turn before.
    Raises:
        ValueError: not a name, or one that an archive needs for itself.
    """
    state, archive = memories.state(user), memories.archive(user)
    if archive is None and SLOTS not in state.memory:
        return state
    if name is not None and archive is not None:
        name = archive.check_name(name)
    if begins(state, name, event):
        state = replace(state, context={part: own for part, own in state.context.items() if part != DOCUMENT})
    return begin(state, name)


def begins(state: ModelState, name: str | None, event: str) -> bool:
    """Tell whether a text is the first of a new document; see `opened`."""
    if state.segment_len.any() or "open" in state.context:
        return False
    reading = open_document(state)
    return event == EVENT or (name is not None and reading is not None and reading.name != name)


def taught_before(memories: Memories, user: str, name: str | None, event: str) -> bool:
    """Tell whether a document begins while what turns have taught is still in a user's live state."""
    archive, state = memories.archive(user), memories.state(user)
    return archive is not None and begins(state, name, event) and archive.moved(state)


def turned(state: ModelState, before: ModelState) -> ModelState:
    """Return the state after an event that is no document's end: the next text belongs to the same document."""
    if DOCUMENT not in before.context:
        return state
    return replace(state, context={**state.context, DOCUMENT: before.context[DOCUMENT]})


def archived(
    memories: Memories, archive: Archive, state: ModelState, name: str
) -> tuple[ModelState, dict[str, int], tuple[str, ...]]:
    """Keep what a document has taught, before its end is declared; return to the model as it was.

    Levels that step at the document's end do so first. What taught no level anything leaves no entry, and what was
    kept under its name before stays.

    Args:
        memories: of all users.
        archive: the user's.
        state: one row, its segment closed.
        name: of the document.
    Returns:
        state: the learned start, with the counters and the slots of the stream.
        steps: level name -> 1 where it stepped at the end.
        dropped: documents that left the archive for this one.
    """
    layers, updates = {}, {}
    for layer, memory in memories.reader.memories().items():
        layers[layer], updates[layer] = memory.write(state.layer(layer), EVENT)
    taught = with_layers(state, layers)
    # an entry that ends where this reading does is this reading: it was kept, and a crash came before the commit
    again = any(
        e.name == name and torch.equal(e.packed.tokens_seen, state.tokens_seen.cpu()) for e in archive.entries()
    )
    dropped = archive.keep(name, taught, again=again) if archive.moved(taught) else []
    return returned(memories, state), steps_of(updates, 0), tuple(dropped)


def returned(memories: Memories, state: ModelState) -> ModelState:
    """Return the learned start with the counters and the slots of a stream of one row."""
    slots = {SLOTS: state.memory[SLOTS]} if SLOTS in state.memory else {}
    return replace(memories.fresh, memory=memories.fresh.memory | slots, tokens_seen=state.tokens_seen)


def steps_of(updates: Updates, row: int) -> dict[str, int]:
    """Return the levels that moved in a row: name -> 1."""
    return {level: 1 for own in updates.values() for level, update in own.items() if bool(update.rows[row])}


def forget(memories: Memories, slots: SlotMemory | None, user: str, name: str) -> tuple[bool, ModelState]:
    """Take a document out of a user's archive, and out of the state that is returned.

    Returns:
        known: whether anything of it was there.
        state: to be committed; the same object where nothing of it was in the state.
    """
    name, state, archive = plain_name(name, "document name"), memories.state(user), memories.archive(user)
    known = archive is not None and archive.forget(name)
    reading = open_document(state)
    if reading is not None and reading.name == name:
        known = True
        if archive is not None:
            state = returned(memories, state)
        else:
            state = state.new_segment()
            # what would step now has collected from this document alone, and has not learned it yet
            layers = {
                layer: own.discard(state.layer(layer), EVENT) for layer, own in memories.reader.memories().items()
            }
            state = memories.reader.tick(with_layers(state, layers), EVENT)[0]
    starts = [document.start for document in read_documents(state) if document.name == name]
    if slots is not None and starts:
        known, state = True, forget_documents(state, slots, starts)
    return known, state


def without_last_reading(memories: Memories, slots: SlotMemory | None, user: str, name: str) -> ModelState:
    """Return a user's state without the slots of the reading that `Archive.roll_back` is about to take back.

    Raises:
        ValueError: there is no archive, the document is not in it, or it is being read.
    """
    state, archive = memories.state(user), memories.archive(user)
    if archive is None:
        raise ValueError(
            "a document cannot be rolled back without an archive; give the learner archive=Archive, or go back to an "
            "earlier state(user) with restore()"
        )
    entry = archive.entry(name)
    reading = open_document(state)
    if reading is not None and reading.name == entry.name:
        raise ValueError(
            f"document {entry.name!r} of user {user!r} is being read, so its last reading is not over; end it first "
            "with close(user), or drop it with forget_document(user, name)"
        )
    # readings of one name follow each other, so the earlier one ended before this one began
    earlier = -1 if entry.before is None else int(entry.before.tokens_seen[0])
    starts = [d.start for d in read_documents(state) if d.name == entry.name and d.start >= earlier]
    return state if slots is None else forget_documents(state, slots, starts)
