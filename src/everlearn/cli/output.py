"""Where a verb's words and numbers go: text for people, JSON for programs, never mixed."""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from everlearn.cli.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Output:
    """The two streams of one run of a verb.

    With `json="-"` standard output carries the JSON document and nothing else, and people read standard error.
    The target is checked at once, so that a long run does not fail at its end.

    Args:
        json: the file to write, "-" for standard output, or None for no JSON.
    Raises:
        UserError: the file cannot be written there.
    """

    json: str | None = None

    def __post_init__(self) -> None:
        if self.json is not None and self.json != "-":
            check_target("--json", self.json)

    @property
    def stream(self) -> TextIO:
        """Return the stream that people read."""
        return sys.stderr if self.json == "-" else sys.stdout

    def say(self, text: str = "") -> None:
        """Print one line, or several, for people."""
        print(text, file=self.stream, flush=True)

    def console(self) -> Console:
        """Return a rich console for tables; it uses no colours without a terminal or under NO_COLOR."""
        from rich.console import Console

        return Console(file=self.stream)

    def finish(self, document: dict[str, Any]) -> None:
        """Write the JSON document where it was asked for: the file appears complete or not at all.

        Args:
            document: nested dictionaries and lists of text, numbers, truth values and None. JSON knows no NaN and no
                infinity: a number that is not finite is written as null.
        """
        if self.json is None:
            return
        text = json.dumps(finite(document), indent=2, allow_nan=False) + "\n"
        if self.json == "-":
            sys.stdout.write(text)
            return
        self.write(self.json, text)

    def write(self, target: str, text: str) -> None:
        """Write a text file, whole or not at all, and say so.

        Args:
            target: a path that `check_target` has let through.
            text: the whole content.
        """
        from everlearn.memory.files import atomic_write

        # a link keeps pointing where it does; a pipe or a device cannot be replaced by a file, and must not be
        path = Path(target)
        if path.exists() and not path.is_file():
            path.write_text(text)
        else:
            atomic_write(path.resolve(), text.encode(), private=False)
        self.say(f"wrote {target}")


def check_target(option: str, target: str) -> None:
    """Refuse a file that could not be written at the end of a run.

    Args:
        option: as the user typed it, such as "--json".
        target: the path that was given.
    Raises:
        UserError: a folder, a folder that does not exist, or one that this user may not write.
    """
    path, other = Path(target), ", or - for standard output" if option == "--json" else ""
    if path.is_dir() or not path.name:
        raise UserError(f"{option} {target!r} is a folder; give the name of a file{other}")
    if not path.parent.is_dir():
        raise UserError(f"{option} {target!r} lies in a folder that does not exist; create it: mkdir -p {path.parent}")
    if not os.access(path if path.exists() and not path.is_file() else path.parent, os.W_OK):
        raise UserError(f"{option} {target!r} cannot be written there; choose a path that this user may write")


def finite(value: Any) -> Any:
    """Copy a JSON document with None in place of every number that is not finite.

    Example:
        >>> finite({"loss": [1.5, float("nan")]})
        {'loss': [1.5, None]}
    """
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
