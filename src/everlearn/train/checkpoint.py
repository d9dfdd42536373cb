"""A run at one step, on disk: weights, optimizer, state and random numbers, whole or not there at all."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everlearn.memory.codec import load_tensors, save_tensors
from everlearn.memory.files import atomic_write, is_temporary
from everlearn.memory.state import Tensors

NAME = re.compile(r"step-(\d{8})")
ABOUT, WEIGHTS, REST = "checkpoint.json", "weights.safetensors", "optimizer.safetensors"
FORMAT, KEEP = 1, 2


@dataclass(frozen=True)
class Checkpoint:
    """A run after some step.

    Args:
        step: optimizer steps that are done.
        weights: the parameters by name.
        rest: what else goes on: "optimizer/...", "state/...", "random/...".
        about: JSON data: the environment, and what the run has counted so far.
    """

    step: int
    weights: Tensors
    rest: Tensors
    about: dict[str, Any] = field(default_factory=dict)


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint into a folder of its own, and remove all but the last two.

    A crash at any moment leaves the ones before; what it cut short has no `checkpoint.json` and counts for nothing.

    Args:
        folder: of all checkpoints of a run; made when it is missing.
        checkpoint: what to write.
    Raises:
        ValueError: NaN or infinity in a tensor.
        OSError: the disk is full or cannot be written.
    """
    place = folder / f"step-{checkpoint.step:08d}"
    place.mkdir(parents=True, exist_ok=True)
    (place / ABOUT).unlink(missing_ok=True)
    save_tensors(place / WEIGHTS, checkpoint.weights, {"step": checkpoint.step})
    save_tensors(place / REST, checkpoint.rest, {"step": checkpoint.step})
    about = {"format": FORMAT, "step": checkpoint.step, **checkpoint.about}
    atomic_write(place / ABOUT, json.dumps(about, indent=1).encode())
    for old in [*steps(folder)[:-KEEP], *_unfinished(folder)]:
        # the mark goes first: a removal that is cut short leaves nothing that looks whole
        (folder / old / ABOUT).unlink(missing_ok=True)
        shutil.rmtree(folder / old)
    return place


def steps(folder: Path) -> list[str]:
    """Return the names of the whole checkpoints in a folder, the oldest first."""
    return sorted(p.parent.name for p in folder.glob(f"step-*/{ABOUT}") if NAME.fullmatch(p.parent.name))


def load(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that can be read, and a line for each newer one that cannot.

    Raises:
        ValueError: there are checkpoints, and none can be read.
    """
    complaints: list[str] = []
    for name in reversed(steps(folder)):
        try:
            return _read(folder / name), complaints
        except (ValueError, OSError) as error:
            complaints.append(str(error))
    if complaints:
        raise ValueError(f"no checkpoint in {folder} can be read: {complaints[0]}; begin a new run in another folder")
    return None, []


def _read(place: Path) -> Checkpoint:
    """Read one checkpoint and check that its files belong together."""
    try:
        about = json.loads((place / ABOUT).read_text())
        step, version = int(about.pop("step")), int(about.pop("format"))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{place / ABOUT} is not whole; use a backup of the run") from None
    if version > FORMAT:
        raise ValueError(f"{place} has format {version}, this version reads up to {FORMAT}; update everlearn")
    weights, first = load_tensors(place / WEIGHTS)
    rest, second = load_tensors(place / REST)
    if not first.get("step") == second.get("step") == step:
        raise ValueError(f"the files in {place} are of different steps; copy the whole folder again")
    return Checkpoint(step, weights, rest, about)


def _unfinished(folder: Path) -> list[str]:
    """Return the names of checkpoints that a crash cut short."""
    return [
        path.name
        for path in folder.iterdir()
        if path.is_dir() and NAME.fullmatch(path.name) and not (path / ABOUT).is_file() and _ours(path)
    ]


def _ours(place: Path) -> bool:
    """Tell whether a folder holds nothing but what `save` writes."""
    return all(path.name in (WEIGHTS, REST) or is_temporary(path) for path in place.iterdir())
