"""The numbers of a run as lines of JSON, and in TensorBoard where that is installed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Protocol

from everlearn.memory.files import atomic_write

LOG, BOARD = "log.jsonl", "tensorboard"


class Writer(Protocol):
    """What a `SummaryWriter` of TensorBoard does."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Note one number."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


class Log:
    """Numbers by step: each step has one line of each kind, however often a run was interrupted.

    Args:
        folder: of the run.
        step: where the run goes on; lines of later steps, which will be written again, are removed.
        board: also gets every number, or None.
    """

    def __init__(self, folder: Path, step: int, board: Writer | None = None) -> None:
        self.path, self._board = folder / LOG, board
        kept = [line for line in lines(self.path) if line["step"] <= step]
        atomic_write(self.path, "".join(f"{json.dumps(line)}\n" for line in kept).encode(), private=False)
        self._file = self.path.open("a")

    def add(self, step: int, **numbers: float) -> None:
        """Write one line."""
        self._file.write(json.dumps({"step": step, **numbers}) + "\n")
        self._file.flush()
        for name, value in numbers.items() if self._board else ():
            assert self._board is not None
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Make what was written durable."""
        os.fsync(self._file.fileno())
        self._file.close()
        if self._board is not None:
            self._board.close()


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log; the rest of one that a crash cut short is passed over."""
    found = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def board(folder: Path, step: int) -> tuple[Writer | None, str]:
    """Return a writer for TensorBoard below a run's folder, or None with a line that says what is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None, f"tensorboard is not installed; the numbers go to {folder / LOG} alone"
    return SummaryWriter(str(folder / BOARD), purge_step=step + 1), ""
