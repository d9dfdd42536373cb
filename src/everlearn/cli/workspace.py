"""The folder behind --state: what kind of memory it holds, and that only one process writes it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from everlearn.cli.errors import UserError, command
from everlearn.layout import ADAPTER, BASE, CONFIG, FORMAT, MARKER, REPLACED, USERS

if TYPE_CHECKING:
    from everlearn.learn import Learner

Kind = Literal["text", "labels"]


def kind_of(folder: Path) -> Kind:
    """Tell what a state folder holds: "text" (a reader's memories) or "labels" (a classifier).

    Raises:
        UserError: there is no state in that folder, or one of a newer format.
    """
    marker = folder / MARKER
    if not marker.is_file():
        raise UserError(
            f"{folder} holds no state ({MARKER} is missing); make one: everlearn learn PATH --state {folder}, "
            f"or from a model of your own: everlearn convert MODEL {folder}"
        )
    try:
        content = json.loads(marker.read_text())
        kind, version = content["kind"], int(content["format"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
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
    from everlearn.memory.files import atomic_write, is_temporary

    if folder.exists() and not folder.is_dir():
        raise UserError(f"--state {folder} is a file; give a folder, which is made when it is missing")
    if (folder / MARKER).exists():
        if (found := kind_of(folder)) != kind:
            raise UserError(f"{folder} holds a memory of {found}, this is about {kind}; choose another --state folder")
        return
    # what a process that was killed at this very point has left is ours too
    if folder.is_dir() and any(entry.name != ".lock" and not is_temporary(entry) for entry in folder.iterdir()):
        raise UserError(f"{folder} is not empty and was not made by everlearn; choose a new --state folder")
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / MARKER, json.dumps({"format": FORMAT, "kind": kind}).encode())


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; see `memory.files.sole_writer`."""
    from everlearn.memory import files

    with files.sole_writer(folder):
        yield


def few_threads(folder: Path | None = None) -> None:
    """Compute on one thread, unless OMP_NUM_THREADS says otherwise or the state in `folder` is of a converted model.

    One row of a model this small gains nothing from a second thread, and loses twentyfold when another process needs
    that core (measured: 17 ms per chunk against 340 ms). The number of threads is part of what bit-identity asks for.
    """
    import torch

    if folder is not None and is_converted(folder):
        return
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


@contextmanager
def writing_reader(
    folder: Path, user: str, base: Path | None, device: str, seed: int, quick: bool
) -> Iterator[Learner]:
    """Hold a state folder and yield the learner whose memories are in it; everything given is checked before.

    Args:
        folder: of the state; made when it is missing.
        user: whose memory will learn.
        base: folder of a model to begin with, or where the base of a converted model is now; None takes the state's
            own, or trains one.
        device: a word of `everlearn.device.device`.
        seed: of a base that has to be trained.
        quick: train such a base in a sixth of the steps.
    Raises:
        UserError: the folder cannot hold this memory, or was begun with another model than `base`.
        ValueError: `user` is no name, or `base` no model.
    """
    from everlearn.compose import save_text_model
    from everlearn.memory.users import user_name
    from everlearn.models import Decoder, load_model, save_model

    user_name(user)
    check_seed(seed)
    if is_converted(folder):
        prepare(folder, "text")
        with sole_writer(folder):
            learner = open_reader(folder, device, base)
            if base is not None:  # it fits, so this is where the next command will look
                save_text_model(learner.model, folder / BASE)
            yield learner
        return
    if base is not None and is_pretrained(base):
        raise UserError(f"{base} is a Hugging Face model; convert it first: {command('convert', base, folder)}")
    given: tuple[Decoder, dict[str, Any]] | None = load_model(base) if base is not None else None
    if given is not None and not given[0].memories():
        raise UserError(
            f"the model in {base} has no levels, so nothing that it reads is kept; give one that has, such as "
            f"{command('train', data='FILE', model='hope_attention')} makes"
        )
    prepare(folder, "text")
    with sole_writer(folder):
        own = folder / BASE
        if not (own / CONFIG).exists():
            if given is not None:
                save_model(given[0], own, given[1])
            else:
                train_base(own, seed, quick)
        elif given is not None and given[0].fingerprint() != load_model(own)[0].fingerprint():
            raise UserError(
                f"{folder} was begun with another model than {base}; leave out --base or choose a new --state"
            )
        yield open_reader(folder, device)


def open_reader(folder: Path, device: str, base: Path | None = None) -> Learner:
    """Return the learner whose memories are in a state folder.

    Args:
        folder: of the state.
        device: a word of `everlearn.device.device`.
        base: where the base of a converted model is now; None looks where it was.
    Raises:
        UserError: no model there.
    """
    import torch
    from torch import nn

    import everlearn
    from everlearn.compose import keeping, load_text_model
    from everlearn.device import device as find_device

    if not any((folder / BASE / name).exists() for name in (CONFIG, ADAPTER, REPLACED)):
        raise UserError(f"{folder} holds no model; make one: everlearn learn PATH --state {folder}")
    with torch.no_grad():
        model = load_text_model(folder / BASE, base)
        if isinstance(model, nn.Module):
            model.to(find_device(device)[0])
    return everlearn.Learner(model, folder / USERS, **keeping(folder))


def open_user(folder: Path, user: str | None, device: str, base: Path | None = None) -> Learner:
    """Return the learner of a state folder of text, for a verb that only reads.

    Args:
        folder: of the state.
        user: who must have a memory there; None asks for nobody.
        device: see `open_reader`.
        base: see `open_reader`; or the folder of a model of ours, which then needs no state where `user` is None.
    Raises:
        UserError: the folder holds labels, no model, or no memory of that user, or was begun with another model.
    """
    if base is not None and is_ours(base):
        alone = open_base(base, device)
        if user is None:
            return alone
        if not (folder / MARKER).is_file():
            repair = command("read", "FILE", base=base, state=folder, user=user)
            raise UserError(f"{folder} holds no memory of user {user!r}, since it holds no state; make one: {repair}")
        learner = open_user(folder, user, device)
        if learner.model.fingerprint() != alone.model.fingerprint():
            raise UserError(f"{folder} was begun with another model than {base}; leave out --base, or --user")
        return learner
    if kind_of(folder) != "text":
        raise UserError(f"{folder} holds a classifier, which reads no text; give the --state of a memory of text")
    learner = open_reader(folder, device, base)
    if user is not None and not learner.knows(user):
        users = ", ".join(learner.known_users()) or "nobody"
        raise UserError(f"{folder} holds no memory of user {user!r}; it knows {users}")
    return learner


def is_converted(folder: Path) -> bool:
    """Tell whether a state folder is of a model of Hugging Face: with levels on it, or with memories in its places."""
    return any((folder / BASE / name).is_file() for name in (ADAPTER, REPLACED))


def open_base(folder: Path, device: str) -> Learner:
    """Return a learner of the model in a folder of ours, such as `everlearn train` writes; it keeps nothing on disk.

    Args:
        folder: of the model.
        device: a word of `everlearn.device.device`.
    Raises:
        ValueError: no whole model there.
    """
    import torch

    from everlearn.device import device as find_device
    from everlearn.learn import Learner
    from everlearn.models import load_model

    with torch.no_grad():
        return Learner(load_model(folder)[0].to(find_device(device)[0]))


def is_ours(folder: Path) -> bool:
    """Tell whether a folder holds a model that `models.save_model` wrote."""
    from everlearn.models.checkpoint import WEIGHTS

    return (folder / WEIGHTS).is_file() and (folder / CONFIG).is_file() and not is_pretrained(folder)


def is_pretrained(folder: Path) -> bool:
    """Tell whether a folder holds a model that Hugging Face saved."""
    try:
        return "model_type" in json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError):
        return False


def check_seed(seed: int) -> None:
    """Refuse a seed that some generator does not take.

    Raises:
        UserError: it is below 0 or needs more than 32 bits.
    """
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed {seed} is out of range; give a whole number from 0 to {2**32 - 1}")


def train_base(folder: Path, seed: int, quick: bool) -> None:
    """Train the small byte-level model on Python's standard library and keep it in `folder`."""
    from everlearn.cli.progress import progress
    from everlearn.demo.base import load_or_train
    from everlearn.recipes import byte_reader

    total = byte_reader.training(seed, quick).steps
    with progress("Training a small base model on Python's standard library", total=total) as advance:
        load_or_train(folder, seed=seed, quick=quick, on_step=lambda _, loss: advance(1, f"{loss:.2f} bits/byte"))
