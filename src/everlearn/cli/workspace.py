"""The folder behind --state: what kind of memory it holds, and that only one process writes it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from everlearn.cli.errors import UserError

if TYPE_CHECKING:
    from everlearn.learn import Learner

Kind = Literal["text", "labels"]
MARKER, FORMAT = "everlearn.json", 1
BASE, USERS, CLASSIFIER = "base", "users", "classifier.safetensors"


def kind_of(folder: Path) -> Kind:
    """Tell what a state folder holds: "text" (a reader's memories) or "labels" (a classifier).

    Raises:
        UserError: there is no state in that folder, or one of a newer format.
    """
    marker = folder / MARKER
    if not marker.is_file():
        raise UserError(
            f"{folder} holds no state ({MARKER} is missing); make one: everlearn learn PATH --state {folder}"
        )
    try:
        content = json.loads(marker.read_text())
        kind, version = content["kind"], int(content["format"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{marker} is not whole; restore it from a copy of the folder") from None
    if version > FORMAT:
        raise UserError(f"{folder} has state format {version}, this version reads up to {FORMAT}; update everlearn")
    if kind not in ("text", "labels"):
        raise UserError(f"{marker} says kind {kind!r}, which is neither 'text' nor 'labels'; restore it from a copy")
    return kind


def prepare(folder: Path, kind: Kind) -> None:
    """Make a folder ready to hold a memory of this kind; one that holds it already is left as it is.

    Raises:
        UserError: the folder is a file, holds something else, or holds the other kind of memory.
    """
    from everlearn.memory.files import atomic_write

    if folder.exists() and not folder.is_dir():
        raise UserError(f"--state {folder} is a file; give a folder, which is made when it is missing")
    if (folder / MARKER).exists():
        if (found := kind_of(folder)) != kind:
            raise UserError(f"{folder} holds a memory of {found}, this is about {kind}; choose another --state folder")
        return
    if folder.is_dir() and any(entry.name != ".lock" for entry in folder.iterdir()):
        raise UserError(f"{folder} is not empty and was not made by everlearn; choose a new --state folder")
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / MARKER, json.dumps({"format": FORMAT, "kind": kind}).encode())


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; reading verbs do not need it.

    Raises:
        UserError: another process is writing there.
    """
    if os.name != "posix":
        yield
        return
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is writing {folder}; wait for it, or choose another --state") from None
        yield


def few_threads() -> None:
    """Compute on one thread, unless OMP_NUM_THREADS says otherwise.

    One row of a model this small gains nothing from a second thread, and loses twentyfold when another process needs
    that core (measured: 17 ms per chunk against 340 ms). The number of threads is part of what bit-identity asks for.
    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def open_reader(folder: Path, base: Path | None, device: str, seed: int, quick: bool, *, make: bool) -> Learner:
    """Return the learner whose memories are in a state folder.

    Args:
        folder: of the state.
        base: folder of a model to begin with; None takes the state's own.
        device: a word of `everlearn.device.device`.
        seed: of a base that has to be trained.
        quick: train such a base in a sixth of the steps.
        make: copy or train a base when the folder has none; without it that is an error.
    Raises:
        UserError: no base there, or another one than `base`.
    """
    import torch

    import everlearn
    from everlearn.device import device as find_device
    from everlearn.models import load_model, save_model

    own = folder / BASE
    if not (own / "config.json").exists():
        if not make:
            raise UserError(f"{folder} holds no model; make one: everlearn learn PATH --state {folder}")
        if base is not None:
            model, about = load_model(base)
            save_model(model, own, about)
        else:
            train_base(own, seed, quick)
    elif base is not None and load_model(base)[0].fingerprint() != load_model(own)[0].fingerprint():
        raise UserError(f"{folder} was begun with another model than {base}; leave out --base or choose a new --state")
    with torch.no_grad():
        model = load_model(own)[0].to(find_device(device)[0])
    return everlearn.Learner(model, folder / USERS)


def train_base(folder: Path, seed: int, quick: bool) -> None:
    """Train the small byte-level model on Python's standard library and keep it in `folder`."""
    from everlearn.cli.progress import progress
    from everlearn.demo.base import load_or_train
    from everlearn.recipes import byte_reader

    total = byte_reader.training(seed, quick).steps
    with progress("Training a small base model on Python's standard library", total=total) as advance:
        load_or_train(folder, seed=seed, quick=quick, on_step=lambda _, loss: advance(1, f"{loss:.2f} bits/byte"))
