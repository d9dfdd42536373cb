"""The names of users and documents: one spelling for each, everywhere."""

from __future__ import annotations

import unicodedata

LONGEST = 128


def user_name(name: str) -> str:
    """Return a user's name in Unicode's composed form (NFC), so that a name typed in another way is the same user.

    Raises:
        ValueError: a name that is no text, is empty, is longer than 128 characters or holds control characters.
    """
    return plain_name(name, "user name")


def plain_name(name: str, what: str) -> str:
    """Return any name in its composed form; `what` it is stands in the error. See `user_name`."""
    if not isinstance(name, str):
        raise ValueError(f"{what} {name!r} is of type {type(name).__name__}; give text")
    composed = unicodedata.normalize("NFC", name)
    if not composed or len(composed) > LONGEST or not composed.isprintable():
        shown = ascii(name) if len(name) <= LONGEST else f"of {len(name)} characters"
        raise ValueError(f"{what} {shown} must have 1 to {LONGEST} printable characters; choose another name")
    return composed
