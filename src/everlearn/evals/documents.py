"""Which pages are for choosing settings, which for results: decided by a hash before anything is measured."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

LENGTH = 32_000


@dataclass(frozen=True)
class Piece:
    """A piece of a longer text.

    Args:
        domain: which text it is cut from, such as "darwin".
        index: its number in that text.
        role: what it is used for, and nothing else, such as "tune".
        text: its characters.
    """

    domain: str
    index: int
    role: str
    text: str

    @property
    def name(self) -> str:
        """Return "domain/index"."""
        return f"{self.domain}/{self.index}"

    @property
    def sha256(self) -> str:
        """Return the hash of its text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def assign(domain: str, text: str, roles: Mapping[str, int], *, length: int = LENGTH) -> dict[str, list[Piece]]:
    """Cut a text into pieces of equal length and give each role its own.

    The pieces stand in the order of the SHA-256 of "domain/index"; the roles take theirs from the front, in the order
    given. The choice depends on the name, the number of pieces and the roles, and on no result.

    Args:
        domain: name of the text.
        text: at least `length` characters for every piece that is asked for; a shorter rest is left out.
        roles: role -> how many pieces.
        length: characters of one piece.
    Returns:
        role -> its pieces; no piece has two roles.
    Raises:
        ValueError: the text is too short.
    """
    count = len(text) // length
    if sum(roles.values()) > count:
        raise ValueError(
            f"the text {domain!r} holds {count} pieces of {length} characters, but {sum(roles.values())} are needed "
            f"({', '.join(f'{role} {number}' for role, number in roles.items())}); give a longer text or fewer pieces"
        )
    order = sorted(range(count), key=lambda index: hashlib.sha256(f"{domain}/{index}".encode()).digest())
    taken: dict[str, list[Piece]] = {}
    for role, number in roles.items():
        chosen, order = order[:number], order[number:]
        taken[role] = [Piece(domain, i, role, text[i * length : (i + 1) * length]) for i in chosen]
    return taken
