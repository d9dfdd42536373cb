"""Measure `everlearn bench speed` and write its tables into RESULTS.md: `python benchmarks/speed.py [--device cuda]`.

`--peer` measures our layers beside those of titans-pytorch alone, which must be installed for it.
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
from everlearn.evals.speed.peers import beside_titans_pytorch, installed
from everlearn.evals.speed.tables import peer
from everlearn.memory.files import atomic_write
from everlearn.models.presets import PRESETS

PAGE = ROOT / "RESULTS.md"


def main() -> None:
    """Measure what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--peer", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peer:
        write(f"speed-peer-{options.device}", row(f"speed-peer-{options.device}", lambda: beside(options)), options)
        return
    found = row(f"speed-{options.device}", lambda: run(options.device, options.rounds))
    write(f"speed-{options.device}", found, options)


def write(name: str, found: Row, options: argparse.Namespace) -> None:
    """Put what was measured between its marks."""
    text = put(PAGE.read_text(), name, lambda: f"{found['markdown']}\n\n{stamp(found, options)}")
    atomic_write(PAGE, text.encode(), private=False)
    print(f"wrote {PAGE}")


def beside(options: argparse.Namespace) -> Row:
    """Measure our layers beside those of titans-pytorch."""
    if not installed():
        raise SystemExit("titans-pytorch is not installed; pip install titans-pytorch, or leave out --peer")
    names = ["titans_lmm", "delta_net", "gated_delta_net", "hope"]
    return {"markdown": peer(beside_titans_pytorch(names, Sizes(), options.rounds, device(options.device)[0]))}


def run(name: str, rounds: int) -> Row:
    """Measure all presets."""
    report = measure(
        list(PRESETS), Sizes(), device(name)[0], rounds=rounds, on_part=lambda line: print(line, flush=True)
    )
    return {"markdown": markdown(report), "report": json.loads(json.dumps(report.to_dict()))}


def stamp(found: Row, options: argparse.Namespace) -> str:
    """Say how, where and when it was measured."""
    at, flag = found["where"], "" if options.device == "cpu" else f" --device {options.device}"
    command = f"python benchmarks/speed.py{flag}{' --peer' if options.peer else ''}"
    return f"`{command}`, commit {at['commit']}, {at['machine']}, torch {at['torch']}, {at['date']}."


if __name__ == "__main__":
    main()
