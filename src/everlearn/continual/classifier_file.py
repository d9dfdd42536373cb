"""The file of a classifier: what it must hold, and which encoder may read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from everlearn.memory.codec import load_tensors

KIND = "classifier"


def read_state(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the description in a file that `Classifier.save` wrote, without making anything of them.

    Raises:
        ValueError: the file is missing, truncated, changed, or of another kind or format.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is not there; give the path of the file that Classifier.save wrote")
    tensors, meta = load_tensors(path)
    if meta.get("kind") != KIND:
        raise ValueError(f"{path} is not a classifier's file; give the path that Classifier.save wrote")
    return tensors, meta


def check_encoder(theirs: dict[str, Any], ours: dict[str, Any], whose: str) -> None:
    """Refuse knowledge about other features.

    Args:
        theirs: settings of the encoder it was learned with.
        ours: settings of the encoder at hand.
        whose: what was learned, for the error.
    Raises:
        ValueError: they differ.
    """
    theirs, ours = json.loads(json.dumps(theirs)), json.loads(json.dumps(ours))
    if theirs != ours:
        raise ValueError(
            f"{whose} was learned with the encoder {short(theirs)}, not with {short(ours)}; use the same encoder"
        )


def short(settings: dict[str, Any]) -> str:
    """Return settings in one line."""
    text = json.dumps(settings, sort_keys=True)
    return text if len(text) <= 120 else text[:117] + "..."
