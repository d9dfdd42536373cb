"""A process that only reads, so that the demo can kill it: `python -m everlearn.demo.reader_process FILE STATE BASE`.

It writes "at N" when it starts and after each chunk it has computed, before that chunk is committed; N counts bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

USER = "ada"


def main(file: Path, store: Path, base: Path) -> None:
    """Read what is left of a file into Ada's memory, and leave its document open."""
    import torch

    import everlearn
    from everlearn.models import load_model

    torch.set_num_threads(1)
    learner = everlearn.Learner(load_model(base)[0], store)
    at = learner.position(USER)
    data = file.read_bytes()
    print(f"at {at}", flush=True)

    def note(scores: dict[str, Any]) -> dict[str, Any]:
        nonlocal at
        at += len(scores[USER].bits)
        print(f"at {at}", flush=True)
        return {}

    for _ in learner.stream({USER: data[at:]}, end="open", note=note):
        pass


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
