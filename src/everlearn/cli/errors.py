"""How a verb fails: one line on standard error and an exit code that means something."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

# what the machine refused -> exit code, and what the user can do about it
REPAIRS = {
    errno.ENOSPC: (FAILED, "free some space there and run the same command again"),
    errno.EDQUOT: (FAILED, "free some of the quota and run the same command again"),
    errno.EROFS: (FAILED, "choose a path on a disk that can be written"),
    errno.EACCES: (BAD_INPUT, "choose a path that this user may read and write"),
    errno.EPERM: (BAD_INPUT, "choose a path that this user may read and write"),
    errno.ENOENT: (BAD_INPUT, "check the path"),
    errno.ENOTDIR: (BAD_INPUT, "a part of the path is a file; check the path"),
    errno.EISDIR: (BAD_INPUT, "a file is needed here, not a folder"),
    errno.EEXIST: (BAD_INPUT, "choose a new path or remove this one"),
    errno.ENAMETOOLONG: (BAD_INPUT, "choose a shorter path"),
}


class UserError(ValueError):
    """A mistake in what the user gave; its text is one line with what was wrong, got, allowed, and what to do."""


class Interrupted(KeyboardInterrupt):
    """An interrupt that knows what is kept and how to go on.

    Args:
        hint: one line, such as "kept 12 chunks in 'memory'; to go on: everlearn learn notes --state memory".
    """

    def __init__(self, hint: str) -> None:
        super().__init__(hint)
        self.hint = hint


@contextmanager
def resume_hint(hint: Callable[[], str]) -> Iterator[None]:
    """Give an interrupt inside the block the line that says what is kept and the command to resume.

    Args:
        hint: called after the interrupt, so that it can say how far the work came.
    Raises:
        Interrupted: Ctrl-C was pressed inside the block.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise Interrupted(hint()) from interrupt


def debugging() -> bool:
    """Tell whether the user asked for tracebacks with EVERLEARN_DEBUG=1."""
    return os.environ.get("EVERLEARN_DEBUG", "") not in ("", "0")


def complain(text: str) -> None:
    """Print one line to standard error, with the traceback above it where EVERLEARN_DEBUG asks for that."""
    if debugging() and sys.exception() is not None:
        traceback.print_exc()
    print("everlearn: " + " ".join(text.split()), file=sys.stderr)


def report(error: ValueError | OSError) -> int | None:
    """Explain an error in one line and return the exit code; None where the error is not the user's to repair."""
    if isinstance(error, ValueError):
        hint = "; EVERLEARN_DEBUG=1 shows where this came from" if raised_elsewhere(error) else ""
        complain((str(error) or type(error).__name__) + hint)
        return BAD_INPUT
    if error.errno not in REPAIRS:
        return None
    code, repair = REPAIRS[error.errno]
    where = f": {str(error.filename)!r}" if error.filename is not None else ""
    complain(f"{error.strerror}{where}; {repair}")
    return code


def raised_elsewhere(error: BaseException) -> bool:
    """Tell whether an error began in a library: its text then explains little, and it may be a defect of ours."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and not frames[-1].f_globals["__name__"].startswith("everlearn.")


def interrupted(interrupt: KeyboardInterrupt) -> int:
    """Say in one line that the run was interrupted, and how to go on where the verb knows it; return 130."""
    hint = f"; {interrupt.hint}" if isinstance(interrupt, Interrupted) else ""
    complain(f"interrupted{hint}")
    return INTERRUPTED


def broken_pipe() -> int:
    """Stop quietly when the reader of standard output has gone (`everlearn doctor | head -1`); return 1."""
    # the interpreter flushes standard output once more at exit and would complain there
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED
