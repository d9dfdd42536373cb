"""Progress on standard error: a bar on a terminal, a few plain lines everywhere else."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[..., None]


@contextmanager
def progress(title: str, total: float | None = None) -> Iterator[Advance]:
    """Report how far a piece of work has come, on standard error.

    A terminal gets one bar that is redrawn; a file, a pipe or TERM=dumb gets plain lines, about one for each tenth
    of the work. NO_COLOR is respected. An exception passes through, and the last line then says where it stopped.

    Args:
        title: what is being done, such as "Training the base".
        total: how much there is to do, in the caller's unit; None when that is unknown.
    Yields:
        advance(amount=1, note=""): the amount just done, and a few words such as "2.41 bits/byte".
    Example:
        >>> with progress("Reading", total=3) as advance:
        ...     for page in range(3):
        ...         advance(1, f"page {page}")
    """
    plain = not sys.stderr.isatty() or os.environ.get("TERM") == "dumb"
    with (_lines if plain else _bar)(title, total) as advance:
        yield advance


@contextmanager
def _bar(title: str, total: float | None) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %") if total else TextColumn("{task.completed:,.0f}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    # rich reads NO_COLOR by itself
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, note="")

        def advance(amount: float = 1, note: str = "") -> None:
            bar.update(task, advance=amount)
            if note:
                bar.update(task, note=note)

        yield advance


@contextmanager
def _lines(title: str, total: float | None) -> Iterator[Advance]:
    started, done, shown, last_note = time.monotonic(), 0.0, 0.0, ""

    def advance(amount: float = 1, note: str = "") -> None:
        nonlocal done, shown, last_note
        done, last_note = done + amount, note or last_note
        # a tenth of the work, or twice as much as at the last line when nobody knows how much there is
        due = done >= shown + total / 10 if total else done >= max(1, 2 * shown)
        if due and done != total:
            shown = done if not total else total / 10 * int(10 * done / total)
            _say(f"{title}: {_amount(done, total)}{', ' if last_note else ''}{last_note}")

    _say(f"{title} ...")
    try:
        yield advance
    except BaseException:
        _say(f"{title}: stopped at {_amount(done, total)}")
        raise
    _say(f"{title}: done in {time.monotonic() - started:.0f} s{', ' if last_note else ''}{last_note}")


def _amount(done: float, total: float | None) -> str:
    return f"{100 * done / total:.0f} %" if total else f"{done:,.0f}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
