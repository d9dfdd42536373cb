"""Scene 3: pull the plug while the model reads, and roll a level back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import everlearn
from everlearn.demo.reader_process import USER
from everlearn.memory.codec import digest, to_tensors
from everlearn.memory.state import ModelState
from everlearn.models import Decoder, load_model

PARTS = 3  # how often `run` calls `step`


def run(base: Path, text: bytes, folder: Path, step: Callable[[str], None]) -> dict[str, Any]:
    """Read a text in a process that is killed twice, and in one that is not; then roll a level back.

    Args:
        base: folder of the model.
        text: what is read; at least ten chunks.
        folder: an empty folder for the files of this scene.
        step: called with a word when a part is done.
    Returns:
        results: the numbers under "restart" and "rollback" in the demo's JSON.
    """
    file = folder / "text"
    file.write_bytes(text)
    model, _ = load_model(base)
    plain = _finish(file, folder / "never_stopped", base)
    step("never stopped")
    kills = [_kill_at(file, folder / "killed", base, len(text) * part // 5) for part in (2, 4)]
    step("killed")
    again = _finish(file, folder / "killed", base)
    resumed = [*(start for start, _ in kills[1:]), again]
    last = kills[-1][1]
    states = [_state(model, folder / name) for name in ("never_stopped", "killed")]
    step("restarted")
    return {
        "restart": {
            "identical": plain == 0 and _same(*states),
            "kills": len(kills),
            "killed_at": last,
            "resumed_at": resumed[-1],
            "lost_tokens": last - resumed[-1],
            "lost_tokens_each": [at - start for (_, at), start in zip(kills, resumed, strict=True)],
        },
        "rollback": {"level": "fast", "identical": _rollback(model, text, folder / "rolled_back")},
    }


def _rollback(model: Decoder, text: bytes, store: Path) -> bool:
    """Tell whether the fast level returns to its snapshot bit for bit, and nothing else moves, also on disk."""
    learner = everlearn.Learner(model, store)
    learner.read(text[: len(text) // 2], user=USER, end="open")
    snapshot = learner.state(USER)
    learner.read(text[len(text) // 2 :], user=USER, end="open")
    later = learner.state(USER)
    learner.restore(USER, snapshot, level="fast")
    rolled = _state(model, store)
    checks = []
    for layer, tensors in rolled.memory.items():
        for name, tensor in tensors.items():
            origin = snapshot if name.startswith("fast.") else later
            checks.append(torch.equal(tensor, origin.memory[layer][name]))
    moved = any(
        not torch.equal(t, later.memory[n][leaf]) for n, ts in snapshot.memory.items() for leaf, t in ts.items()
    )
    return all(checks) and moved


def _finish(file: Path, store: Path, base: Path) -> int:
    """Read to the end; return the byte at which the process began."""
    with _reader(file, store, base) as lines:
        first = next(lines)
        for _ in lines:
            continue
    return first


def _kill_at(file: Path, store: Path, base: Path, target: int) -> tuple[int, int]:
    """Kill the reader with SIGKILL once it has computed `target` bytes; return where it began and how far it came."""
    with _reader(file, store, base) as lines:
        first = at = next(lines)
        while at < target:
            at = next(lines)
    return first, at


@contextmanager
def _reader(file: Path, store: Path, base: Path) -> Iterator[Iterator[int]]:
    """Start the reading process and yield the positions that it reports; kill it when the block ends."""
    command = [sys.executable, "-m", "everlearn.demo.reader_process", str(file), str(store), str(base)]
    # a group of its own: Ctrl-C reaches every process of the terminal's, and this one alone answers it
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0) as process:
        try:
            yield _positions(process)
        finally:
            # SIGKILL on POSIX: no handler runs, nothing is flushed
            process.kill()


def _positions(process: subprocess.Popen[str]) -> Iterator[int]:
    """Yield the positions that the reading process reports until it ends.

    Raises:
        RuntimeError: it failed; its own message stands above on standard error.
    """
    assert process.stdout is not None
    for line in process.stdout:
        yield int(line.removeprefix("at "))
    if process.wait() != 0:
        raise RuntimeError(f"the reading process failed with exit code {process.returncode}; see its message above")


def _state(model: Decoder, store: Path) -> ModelState:
    """Load Ada's memory from disk, as a new process would."""
    return everlearn.Learner(model, store).state(USER)


def _same(one: ModelState, other: ModelState) -> bool:
    """Tell whether two states are the same to the last bit."""
    return digest(to_tensors(one)) == digest(to_tensors(other))
