"""Measure `everlearn bench speed` and write its tables into RESULTS.md: `python benchmarks/speed.py [--device cuda]`.

The row is kept in `results/rows/`; delete the file to measure again.
"""

from __future__ import annotations

import argparse
import json

import torch
from rows import ROOT, Row, row
from tables import put

from everlearn.device import device
from everlearn.evals.speed import Sizes, markdown, measure
from everlearn.memory.files import atomic_write
from everlearn.models.presets import PRESETS

PAGE = ROOT / "RESULTS.md"


def main() -> None:
    """Measure what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = row(f"speed-{options.device}", lambda: run(options.device, options.rounds))
    text = put(PAGE.read_text(), f"speed-{options.device}", lambda: f"{found['markdown']}\n\n{stamp(found, options)}")
    atomic_write(PAGE, text.encode(), private=False)
    print(f"wrote {PAGE}")


def run(name: str, rounds: int) -> Row:
    """Measure all presets."""
    report = measure(
        list(PRESETS), Sizes(), device(name)[0], rounds=rounds, on_part=lambda line: print(line, flush=True)
    )
    return {"markdown": markdown(report), "report": json.loads(json.dumps(report.to_dict()))}


def stamp(found: Row, options: argparse.Namespace) -> str:
    """Say how, where and when it was measured."""
    at, flag = found["where"], "" if options.device == "cpu" else f" --device {options.device}"
    return f"`python benchmarks/speed.py{flag}`, commit {at['commit']}, {at['machine']}, {at['date']}."


if __name__ == "__main__":
    main()
