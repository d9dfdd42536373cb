"""Measure how a class memory comes through a world that changes, with and without a half-life.

    python benchmarks/changing.py --data FOLDER --encoder NAME_OR_PATH [--features FOLDER]

FOLDER holds clinc150, with the files that `continual/text_sets.py` names. In `relabel` two intents swap their names in
the middle of 15,000 shuffled records, in `drift` one intent turns into another. Half-lives are not chosen: all are
shown. Rows are kept in `results/rows/`, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import tables
import torch
from rows import ROOT, SEEDS, Row, row

from everlearn.continual.changing import Changing, drift, recovery, relabel
from everlearn.continual.encoders import HFEncoder
from everlearn.continual.feature_cache import FeatureCache
from everlearn.continual.streams import Split
from everlearn.continual.text_sets import Rows, clinc
from everlearn.memory.files import atomic_write
from everlearn.memory.precision import PrecisionMemory

PAGE = ROOT / "RESULTS.md"
HALF_LIVES = (None, 500.0, 2_000.0, 8_000.0)
EVERY = 250
STREAMS = ("relabel", "drift")


def main() -> None:
    """Measure what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", required=True, help="folder or name of a sentence encoder of Hugging Face")
    parser.add_argument("--features", type=Path, default=ROOT / "results" / "features")
    options = parser.parse_args()
    torch.set_num_threads(1)
    kept: dict[str, Split] = {}

    def splits() -> tuple[Split, Split]:
        if not kept:
            texts = clinc(options.data / "clinc150")
            encoder = FeatureCache(HFEncoder(options.encoder), options.features)
            for part, rows in (("train", texts.train), ("test", texts.test)):
                kept[part] = encoded(rows, texts.labels, encoder)
        return kept["train"], kept["test"]

    rows = {
        (kind, seed): row(f"changing-{kind}-{seed}", lambda kind=kind, seed=seed: measure(kind, seed, *splits()))
        for kind in STREAMS
        for seed in SEEDS
    }
    atomic_write(PAGE, tables.put(PAGE.read_text(), "changing", lambda: table(rows)).encode(), private=False)
    print(f"wrote {PAGE}")


def encoded(rows: Rows, labels: tuple[str, ...], encoder: FeatureCache) -> Split:
    """Return features and class numbers of labelled texts."""
    place = {label: i for i, label in enumerate(labels)}
    return Split(encoder([text for text, _ in rows]), torch.tensor([place[label] for _, label in rows]))


def measure(kind: str, seed: int, train: Split, test: Split) -> Row:
    """Let a memory of each half-life read one stream."""
    one, other = torch.randperm(150, generator=torch.Generator().manual_seed(seed))[:2].tolist()
    make = {
        "relabel": lambda: relabel(train, test, (one, other), seed),
        "drift": lambda: drift(train, test, {one: other}, seed),
    }
    stream: Changing = make[kind]()
    dim = train.x.shape[1]
    found = {
        str(half_life): vars(
            recovery(lambda h=half_life: PrecisionMemory(dim, half_life=h), lambda: PrecisionMemory(dim), stream, EVERY)
        )
        for half_life in HALF_LIVES
    }
    return {"ways": found, "after": len(stream.records.y) - stream.change}


def table(rows: dict[tuple[str, int], Row]) -> str:
    """One line for each stream and half-life: records until nine tenths of fresh are back, and accuracies."""
    lines = [
        "| stream | half-life, records | records until 90 % of fresh | changed classes | fresh | unchanged, before "
        "| unchanged, end |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in STREAMS:
        at = [rows[kind, seed] for seed in SEEDS]
        for half_life in HALF_LIVES:
            ways = [one["ways"][str(half_life)] for one in at]
            needed = ", ".join("never" if way["records"] is None else f"{way['records']:,}" for way in ways)
            cells = [
                percent([way[key] for way in ways]) for key in ("changed", "fresh", "unchanged_before", "unchanged")
            ]
            name = "none (default)" if half_life is None else f"{half_life:,.0f}"
            lines.append(f"| {kind} | {name} | {needed} | {' | '.join(cells)} |")
    after = ", ".join(f"{rows[kind, 0]['after']:,} in {kind}" for kind in STREAMS)
    stamp = tables.stamp(rows["relabel", 0], "python benchmarks/changing.py --data FOLDER --encoder all-MiniLM-L6-v2")
    facts = (
        f"Three seeds, which choose the two of 150 intents and the order; records after the change began: {after}; "
        f"measured every {EVERY}. Fresh: a memory without a half-life that saw only what came after. {stamp}"
    )
    return "\n".join([*lines, "", facts])


def percent(values: list[float]) -> str:
    """Write a mean and its spread over seeds in percent."""
    return f"{100 * statistics.mean(values):.1f} ± {100 * statistics.stdev(values):.1f}"


if __name__ == "__main__":
    main()
