"""Where a learner keeps its users' memories; any store that has these methods will do."""

from __future__ import annotations

from typing import Any, Protocol

from everlearn.learn.archive import Shelf
from everlearn.memory.state import ModelState

Notes = dict[str, Any]


class Store(Protocol):
    """Durable memories, one per user."""

    def load(self, user: str) -> tuple[ModelState, Notes] | None:
        """Return a user's state, [1, ...], and the notes saved with it; None when the user is unknown."""
        ...

    def save(self, user: str, state: ModelState, notes: Notes) -> None:
        """Replace a user's state and notes in one step that survives a crash."""
        ...

    def users(self) -> list[str]:
        """Return the names of all users, sorted."""
        ...

    def forget(self, user: str) -> bool:
        """Remove a user's state, notes and archived documents; tell whether there was anything."""
        ...

    def shelf(self, user: str) -> Shelf:
        """Return where what single documents taught a user is kept; nothing is written by asking."""
        ...
