"""Train every preset on small tasks, and write their tables into RESULTS.md: `python benchmarks/small_tasks.py`.

    python benchmarks/small_tasks.py [--presets delta_net transformer++ ...] [--tasks parity recall ...] [--fast]

Every row is kept in `results/rows/` as soon as it is measured, so an interrupted run goes on where it stopped; delete a
file to measure that row again. The tables show all rows that there are, also those of presets that were not asked for
this time. `--fast` measures one seed instead of three.
"""

from __future__ import annotations

import argparse
import json

import small_task_tables
import torch
from rows import ROOT, ROWS, SEEDS, Row, row
from tables import put

from everlearn.demo.base import load_or_train
from everlearn.demo.corpus import standard_library, unseen_files
from everlearn.evals.endless import read_on
from everlearn.memory.files import atomic_write
from everlearn.models.presets import PRESETS
from everlearn.models.text import encode
from everlearn.recipes import byte_reader, sentences, small_tasks

PAGE = ROOT / "RESULTS.md"
TASKS = {**small_tasks.TASKS, "surprise": sentences.surprise}
FILES = 60  # of other packages; they hold 1.8 million bytes here
MARKS = (1_000, 10_000, 100_000, 1_000_000)
# hope_attention has the mixer of transformer++, and these tasks leave out the levels
NAMES = [name for name in PRESETS if name != "hope_attention"]


def main() -> None:
    """Measure what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=NAMES, choices=list(PRESETS), help="all when left out")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS), help="all when left out")
    parser.add_argument("--fast", action="store_true", help="one seed instead of three")
    parser.add_argument("--endless", action="store_true", help="also read a million bytes, frozen and learning")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in SEEDS[:1] if options.fast else SEEDS:
        for task in options.tasks:
            for name in options.presets:
                row(key(task, name, seed), lambda task=task, name=name, seed=seed: TASKS[task](name, seed))
    if options.endless:
        for learn in (False, True):
            row(f"small-endless-{'learning' if learn else 'frozen'}", lambda learn=learn: endless(learn))
    atomic_write(PAGE, write(PAGE.read_text()).encode(), private=False)
    print(f"wrote {PAGE}")


def endless(learn: bool) -> Row:
    """Read a million bytes of source code that the demo's base model was not trained on, as one document."""
    model, _ = load_or_train(ROOT / "results" / "base-0", seed=0)
    known, _ = standard_library(byte_reader.TRAIN_BYTES)
    ids = encode(b"".join(document.data for document in unseen_files(known, FILES)))
    return {"marks": [vars(mark) for mark in read_on(model, ids, MARKS, learn=learn)]}


def write(text: str) -> str:
    """Put every table between its two marks, where the page has them."""
    for name, table in small_task_tables.TABLES.items():
        text = put(text, name, lambda table=table: table({task: measured(task) for task in TASKS}))
    files = {way: ROWS / f"small-endless-{way}.json" for way in ("frozen", "learning")}
    kept = {way: json.loads(file.read_text()) for way, file in files.items() if file.exists()}
    return put(text, "small-endless", lambda: small_task_tables.endless(kept))


def measured(task: str) -> dict[str, list[Row]]:
    """Return the rows that there are of one task: preset -> one row for each seed."""
    found: dict[str, list[Row]] = {}
    for name in PRESETS:
        files = [ROWS / f"{key(task, name, seed)}.json" for seed in SEEDS]
        kept = [json.loads(file.read_text()) for file in files if file.exists()]
        if kept:
            found[name] = [{**one["result"], "where": one["where"]} for one in kept]
    return found


def key(task: str, name: str, seed: int) -> str:
    """Return the name of a row's file; a task's name may hold signs that a file's may not."""
    plain = "".join(letter if letter.isalnum() or letter in "-+" else "_" for letter in task)
    return f"small-{plain}-{name}-{seed}"


if __name__ == "__main__":
    main()
