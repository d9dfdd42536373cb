"""How a verb fails: one line on standard error and an exit code that means something."""

from __future__ import annotations

import dataclasses
import errno
import io
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

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
    errno.EFBIG: (FAILED, "raise the limit on the size of files (ulimit -f) and run the same command again"),
    errno.EIO: (FAILED, "check the disk, or choose a path on another one"),
    errno.EBUSY: (FAILED, "wait for the other process and run the same command again"),
    errno.ELOOP: (BAD_INPUT, "the path is a circle of links; choose another one"),
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


def command(verb: str, *paths: Path | str, **options: Any) -> str:
    """Write a command as it can be pasted into a shell.

    Example:
        >>> command("read", Path("my notes.txt"), Path("-x"), state=Path("memory"), quick=True)
        "everlearn read 'my notes.txt' ./-x --state memory --quick"
    """
    words = [f"./{path}" if str(path).startswith("-") else str(path) for path in paths]
    for field, value in options.items():
        name = field.replace("_", "-")
        if value is True:
            words.append(f"--{name}")
        elif isinstance(value, tuple):
            words += [f"--{name}", *map(str, value)]
        else:
            words += [f"--{name}={value}"] if str(value).startswith("-") else [f"--{name}", str(value)]
    return shlex.join(["everlearn", verb, *words])


def same_command(verb: str, options: Any) -> str:
    """Write the command that was given, as it can be pasted into a shell; options at their default are left out.

    Args:
        verb: such as "learn".
        options: the verb's dataclass; fields without a default are the words after the verb.
    """
    paths: list[Path | str] = []
    changed = {}
    for field in dataclasses.fields(options):
        value = vars(options)[field.name]
        if field.default is dataclasses.MISSING:
            paths += value if isinstance(value, list) else [value]
        elif value != field.default:
            changed[field.name] = value
    return command(verb, *paths, **changed)


def check_files(verb: str, files: Sequence[Path]) -> None:
    """Refuse a verb about files that got none.

    Raises:
        UserError: the list is empty.
    """
    if not files:
        raise UserError(f"no file was given; name at least one text file or folder: everlearn {verb} FILE ...")


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
    try:
        sys.stdout.flush()
    except OSError:
        give_up_output()
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


def open_streams() -> None:
    """Give the process three streams that take any text.

    A stream that was closed (`everlearn ... >&-`) leads nowhere: its number must not go to the next file that is
    opened, which would then receive what is printed. A character that the terminal lacks is written as its escape.
    """
    if sys.stdin is None:
        sys.stdin = Path(os.devnull).open()  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def give_up_output() -> None:
    """Drop what standard output still holds: the interpreter flushes it once more at exit and would complain there."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
