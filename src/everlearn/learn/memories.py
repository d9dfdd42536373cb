"""What each user has taught: states, notes and archives, kept here and in a store."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from everlearn.learn.archive import Archive, Shelf
from everlearn.learn.store_protocol import Notes, Store
from everlearn.memory.in_state import filled, trimmed
from everlearn.memory.state import ModelState
from everlearn.memory.users import user_name
from everlearn.models.protocol import TextModel

MakeArchive = Callable[[TextModel, Shelf | None], Archive]


class Memories:
    """Each user's state, notes and archive: durable first, visible after.

    Args:
        reader: whose states they are.
        store: where they outlive the process; None keeps them in this object only.
        make: makes a user's archive, such as `learn.Archive` itself; None for a learner without archives.
    """

    def __init__(self, reader: TextModel, store: Store | None, make: MakeArchive | None) -> None:
        self.reader, self.store, self._make = reader, store, make
        with torch.no_grad():
            self.fresh = reader.initial_state(1).detach()
        self._states: dict[str, ModelState] = {}
        self._notes: dict[str, Notes] = {}
        self._archives: dict[str, Archive] = {}

    def users(self) -> list[str]:
        """Return the names of all users, sorted."""
        return sorted({*self._states, *(self.store.users() if self.store else [])})

    def knows(self, user: str) -> bool:
        """Tell whether a user has a state; other users' are not looked at."""
        return self._load(user) in self._states

    def state(self, user: str) -> ModelState:
        """Return a user's state, [1, ...]; an unknown user's is the learned start."""
        return self._states.get(self._load(user), self.fresh)

    def notes(self, user: str) -> Notes:
        """Return the JSON notes that the last commit of this user carried."""
        return self._notes.get(self._load(user), {})

    def archive(self, user: str) -> Archive | None:
        """Return what single documents taught a user; None for a learner without archives."""
        name = user_name(user)
        if self._make is not None and name not in self._archives:
            self._archives[name] = self._make(self.reader, self.store.shelf(name) if self.store else None)
        return self._archives.get(name)

    def commit(self, states: Mapping[str, ModelState], notes: Notes | None) -> None:
        """Make new states durable first and visible after.

        Args:
            states: user -> state, [1, ...].
            notes: committed with them; None keeps each user's own.
        """
        for user, state in states.items():
            state, kept = trimmed(filled(state, self.fresh)), self.notes(user) if notes is None else dict(notes)
            if self.store:
                self.store.save(user, state, kept)
            name = user_name(user)
            self._states[name], self._notes[name] = state, kept

    def forget(self, user: str) -> bool:
        """Remove all of a user, here and in the store; tell whether there was anything."""
        name = user_name(user)
        archive = self._archives.pop(name, None)
        known = [self._states.pop(name, None) is not None, bool(self.store and self.store.forget(name))]
        self._notes.pop(name, None)
        return any(known) or bool(archive and archive.names())

    def _load(self, user: str) -> str:
        """Bring a user's state in from the store, the first time it is asked for; return the name it is kept under."""
        user = user_name(user)
        found = self.store.load(user) if self.store and user not in self._states else None
        if found:
            state = found[0].map(lambda t: t.to(self.fresh.tokens_seen.device))
            self._states[user], self._notes[user] = filled(state, self.fresh), found[1]
        return user
