"""A folder of one JSON file and one of tensors that are either both there and of one save, or refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from everlearn.memory.codec import load_tensors, save_tensors
from everlearn.memory.files import atomic_write

FORMAT = 1


@dataclass(frozen=True)
class Folder:
    """The names in a folder of one kind.

    Args:
        kind: what it holds, for messages.
        writer: what writes it, for messages.
        config: name of the JSON file, which repeats what the other says of itself for people to read.
        weights: name of the file of tensors.
    """

    kind: str
    writer: str
    config: str
    weights: str

    def save(self, folder: Path, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Write both files; the folder is there."""
        save_tensors(folder / self.weights, tensors, meta)
        # written last: a folder with this file is whole
        atomic_write(folder / self.config, json.dumps({"format": FORMAT, **meta}, indent=2).encode())

    def load(self, folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Read both files.

        Returns:
            tensors, meta: as they were saved.
        Raises:
            ValueError: nothing of this kind there, or it is not whole, was changed, or is of a newer format.
        """
        for name in (self.config, self.weights):
            if not (folder / name).is_file():
                raise ValueError(
                    f"{folder} holds no {self.kind} ({name} is missing); give a folder that {self.writer} wrote"
                )
        tensors, meta = load_tensors(folder / self.weights)
        try:
            shown = json.loads((folder / self.config).read_text())
        except ValueError:
            shown = None
        if isinstance(shown, dict) and isinstance(shown.get("format"), int) and shown["format"] > FORMAT:
            raise ValueError(
                f"{folder} has format {shown['format']}, this version reads up to {FORMAT}; update everlearn"
            )
        if shown != {"format": FORMAT, **meta}:
            raise ValueError(
                f"{folder / self.config} and {self.weights} are not of one {self.kind}; copy both from the same folder"
            )
        return tensors, meta
