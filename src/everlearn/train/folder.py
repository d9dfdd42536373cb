"""What makes a folder a run's: its config, the identity of its data, and the text that it never sees."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from everlearn.layout import HELD_OUT, RUN
from everlearn.memory.files import atomic_write, is_temporary
from everlearn.train.config import RunConfig, differences
from everlearn.train.corpus import Split

FORMAT = 1


def open_folder(folder: Path, config: RunConfig, texts: Mapping[str, bytes]) -> None:
    """Make the folder this run's; one that is already is left as it is.

    Raises:
        ValueError: see `check_folder`.
    """
    check_folder(folder, config, texts)
    if not (folder / RUN).exists():
        folder.mkdir(parents=True, exist_ok=True)
        data = {"format": FORMAT, "config": config.to_dict(), "data": manifest(texts)}
        atomic_write(folder / RUN, json.dumps(data, indent=1).encode(), private=False)


def check_folder(folder: Path, config: RunConfig, texts: Mapping[str, bytes]) -> None:
    """Refuse a folder that cannot hold this run.

    Raises:
        ValueError: a file, another run, other data, or files that are not a run's.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; a run needs a folder, which is made when it is missing; choose another")
    if not (folder / RUN).exists():
        # what a process that was killed at this very point has left is ours too
        if folder.is_dir() and any(p.name != ".lock" and not is_temporary(p) for p in folder.iterdir()):
            raise ValueError(f"{folder} is not empty and holds no run ({RUN} is missing); choose a new folder")
        return
    old = read_run(folder)
    if changed := differences(old["config"], config.to_dict()):
        raise ValueError(
            f"{folder} holds another run ({'; '.join(changed[:3])}{' ...' if len(changed) > 3 else ''}); "
            "go on with its own options, or choose a new folder"
        )
    data = manifest(texts)
    if len(old["data"]) != len(data):
        raise ValueError(
            f"{folder} was begun with {len(old['data'])} files, got {len(data)}; "
            "give the same files, or choose a new folder"
        )
    for before, now in zip(old["data"], data, strict=True):
        if before["sha256"] != now["sha256"]:
            raise ValueError(
                f"{now['name']} is not what the run in {folder} was begun with: {before['name']} had "
                f"{before['bytes']} bytes, this has {now['bytes']} and another SHA-256; restore the file, or choose a "
                "new folder"
            )


def read_run(folder: Path) -> dict[str, Any]:
    """Return what `run.json` holds: format, config and data.

    Raises:
        ValueError: no run there, or one that is not whole.
    """
    try:
        found = json.loads((folder / RUN).read_text())
        RunConfig.from_dict(found["config"])
        if found["format"] > FORMAT:
            raise ValueError(f"its format is {found['format']}, this version reads up to {FORMAT}")
        [(file["name"], file["bytes"], file["sha256"]) for file in found["data"]]
    except FileNotFoundError:
        raise ValueError(f"{folder} holds no run ({RUN} is missing); give the folder of one") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / RUN} is not whole ({error}); restore it from a copy of the folder") from None
    return found


def manifest(texts: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """Say which files a run was begun with."""
    return [
        {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in texts.items()
    ]


def keep_held_out(folder: Path, parts: Split) -> None:
    """Write the held-out text where it can be measured on later, one file for each part."""
    place = folder / HELD_OUT
    place.mkdir(exist_ok=True)
    for number, part in enumerate(parts.valid):
        file = place / f"{number:04d}.txt"
        if not file.exists():
            atomic_write(file, part.data)
