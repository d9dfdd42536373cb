"""Compare optimizers, and write their tables and figures: `python benchmarks/optimizers.py --data FILE`.

    python benchmarks/optimizers.py [--data input.txt.gz] [--only toys vit noise lm]

Surfaces and overlapping tasks, a vision Transformer on the digits of scikit-learn, the same with wrong labels, and a
byte language model on a text. Every method gets the same search, on a part of the training data, with a seed that no
table has. Every row is kept in `results/rows/` as soon as it is measured, so an interrupted run goes on where it
stopped; delete a file to measure that row again. About an hour of one core in all.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import optimizer_figures
import optimizer_runs
import optimizer_tables
import optimizer_toys
import torch
from rows import ROOT, row
from tables import put

from everlearn.memory.files import atomic_write

PAGE = ROOT / "RESULTS.md"
PARTS = ("toys", "vit", "noise", "lm")


def main() -> None:
    """Measure what is missing, then write the tables and figures of what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the text of the language model, plain or gzipped")
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=PARTS, help="all when left out")
    options = parser.parse_args()
    if "lm" in options.only and options.data is None:
        parser.error("the language model needs a text: give --data FILE, or leave lm out with --only")
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    if "toys" in options.only:
        for name in ("valleys", "many_minima", "momentum_of_tasks"):
            found[name] = row(f"optim-{name}", vars(optimizer_toys)[name])
    if "vit" in options.only or "noise" in options.only:
        found["vision"] = optimizer_runs.vision()
    if "noise" in options.only:
        found["noise"] = optimizer_runs.noisy(found["vision"])
    if "lm" in options.only:
        found["language"] = optimizer_runs.bytes_of(options.data)
    text = PAGE.read_text()
    for name, values in found.items():
        for mark, table in optimizer_tables.TABLES[name].items():
            text = put(text, mark, lambda table=table, values=values: table(values))
    atomic_write(PAGE, text.encode(), private=False)
    for file in optimizer_figures.draw(found, ROOT / "docs"):
        print(f"wrote {file}")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
