"""How a learner keeps documents and slots, as plain data: what a folder says, so that every process does the same."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from everlearn.learn.archive import Archive
from everlearn.learn.memories import MakeArchive
from everlearn.memory.slots import SlotMemory

# what of an archive is a number or a word; a rule of one's own for what is dropped has no file format
ARCHIVE = ("rank", "bits", "capacity", "rows", "min_gain")
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


def archive_settings(make: MakeArchive | None) -> dict[str, Any] | None:
    """Return what `archive_of` makes the same archive from; None for none.

    Raises:
        ValueError: an archive that is made in another way than by `Archive` with numbers.
    """
    if make is None:
        return None
    made, options = (make.func, make.keywords) if isinstance(make, partial) else (make, {})
    if made is not Archive or (isinstance(make, partial) and make.args) or not set(options) <= set(ARCHIVE):
        raise ValueError(
            f"an archive made by {make!r:.60} cannot be written down; use Archive, or functools.partial(Archive, ...) "
            f"with {', '.join(ARCHIVE)}"
        )
    defaults = inspect.signature(Archive).parameters
    return {name: options.get(name, defaults[name].default) for name in ARCHIVE}


def archive_of(settings: Mapping[str, Any] | None) -> MakeArchive | None:
    """Return what makes the archive of `archive_settings`.

    Raises:
        ValueError: a setting that no archive has.
    """
    if settings is None:
        return None
    if unknown := sorted(set(settings) - set(ARCHIVE)):
        raise ValueError(f"an archive has no setting {unknown[0]!r}; update everlearn, or restore the folder")
    return partial(Archive, **settings)


def slot_settings(slots: SlotMemory | None) -> dict[str, Any] | None:
    """Return what `slots_from` makes the same slots from; None for none."""
    if slots is None:
        return None
    return {**dataclasses.asdict(slots), "key_dtype": str(slots.key_dtype).removeprefix("torch.")}


def slots_from(settings: Mapping[str, Any] | None) -> SlotMemory | None:
    """Return the slots of `slot_settings`.

    Raises:
        ValueError: a setting that slots do not have, or a value outside its range.
    """
    if settings is None:
        return None
    known = [field.name for field in dataclasses.fields(SlotMemory)]
    if (unknown := sorted(set(settings) - set(known))) or settings.get("key_dtype") not in DTYPES:
        wrong = unknown[0] if unknown else "key_dtype"
        raise ValueError(f"slots have no such setting as {wrong!r} here; update everlearn, or restore the folder")
    return SlotMemory(**{**settings, "key_dtype": DTYPES[settings["key_dtype"]]})
