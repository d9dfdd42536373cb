"""Measure whether moving a pretrained encoder during a stream of new classes beats leaving it alone.

    python benchmarks/encoder_levels.py --data FOLDER --encoder NAME_OR_FOLDER [--set banking] [--ways NAME ...]

FOLDER holds the files of the set that `continual/text_sets.py` names. Only the last three blocks are run: the lower
ones stand still, and what they give is kept in the memory of the machine, 80 KB for a text of Banking77. Every way has
the same number of step sizes, searched on validation records in an order of its own; the test records are read once for
each seed with what was chosen. Rows are kept in `results/rows/`, so an interrupted run goes on where it stopped, and
commands with different `--ways` may run side by side; the table is written by those that ask for the frozen encoder.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import tables
import torch
from encoder_ways import PACES, WAYS, Row, Texts, Way, measure, search, search_shrinkage
from rows import ROOT, SEEDS, row

from everlearn.continual.encoders import HFEncoder
from everlearn.continual.strategies.text_module import TextModule, UpperBlocks
from everlearn.evals.class_incremental.choose import SEARCH_SEED
from everlearn.evals.class_incremental.scenario import encoded, read_texts
from everlearn.memory.files import atomic_write

PAGE = ROOT / "RESULTS.md"
SETS = ("banking", "clinc", "dbpedia")


def main() -> None:
    """Measure what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", required=True, help="folder or name of a sentence encoder of Hugging Face")
    parser.add_argument("--set", choices=SETS, default=SETS[0])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS), help="none: search alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    name = f"encoder-{options.set}-{HFEncoder(options.encoder).settings()['sha256'][:8]}"
    texts = cache(lambda: read(options.set, options.data, options.encoder))
    found = {key: measured(name, key, texts, options.seeds) for key in options.ways}
    if "frozen" in found:
        text = tables.put(PAGE.read_text(), f"encoder {options.set}", lambda: table(found))
        atomic_write(PAGE, text.encode(), private=False)
        print(f"wrote {PAGE}")


@dataclass(frozen=True)
class Measured:
    """What was measured of one way.

    Args:
        tried: (step size, score on validation records) of each candidate.
        rows: what the best did with the test records, one for each seed.
        where: commit and machine of the latest.
    """

    tried: list[tuple[float, float]]
    rows: list[Row]
    where: dict[str, str]

    @property
    def eta(self) -> float:
        """Return the best step size; among equals the first, which is the smallest."""
        return max(self.tried, key=lambda one: one[1])[0]


def measured(name: str, key: str, texts: Callable[[], Texts], seeds: Sequence[int]) -> Measured:
    """Choose the step size of a way on validation records, and measure it on the test records of each seed."""
    way = WAYS[key]
    sizes = row(f"{name}-shrinkage", lambda: search_shrinkage(texts()))["scores"]
    shrinkage = max(sizes, key=lambda found: found[1])[0]
    searched = [
        row(f"{name}-{key}-search-{eta:g}", partial(lambda eta: search(way, texts(), eta, shrinkage, SEARCH_SEED), eta))
        for eta in way.etas
    ]
    found = Measured([(one["eta"], one["score"]) for one in searched], [], searched[-1]["where"])
    print(key, *(f"{eta:g}: {100 * score:.1f}" for eta, score in found.tried), flush=True)

    def test(seed: int) -> Row:
        return measure(way, texts(), found.eta, shrinkage, seed, refresh=seed == 0)

    rows = [row(f"{name}-{key}-{found.eta:g}-{seed}", partial(test, seed)) for seed in seeds]
    return Measured(found.tried, rows, rows[-1]["where"] if rows else found.where)


def read(name: str, folder: Path, encoder: str) -> Texts:
    """Read a set, run the lower blocks of the encoder over its texts, and keep the features of the encoder as it is."""
    found = read_texts(name, folder)
    texts = [text for part in (found.train, found.validation, found.test) for text, _ in part]
    module = TextModule(encoder, lambda rows: [texts[i] for i in rows.tolist()])
    blocks = UpperBlocks(module, len(texts), len(PACES)).requires_grad_(False)
    places = itertools.count()
    # the parts are encoded in the order of `texts`
    scenario = encoded(name, found, lambda words: torch.tensor([next(places) for _ in words]))
    with torch.no_grad():
        features = torch.cat([blocks(rows) for rows in torch.arange(len(texts)).split(1_024)])
    print(f"{len(texts):,} texts, {blocks.kept_bytes() / 1e6:,.0f} MB below the blocks that move", flush=True)
    return Texts(scenario, blocks, features)


def table(found: dict[str, Measured]) -> str:
    """One line for each way: mean and spread over the seeds, in percent; blank where only step sizes were searched."""
    heads = (
        "encoder",
        "step: validation",
        "orders",
        "test, all classes",
        "against frozen",
        "first classes after the first and the last experience",
        "all classes, sums refreshed",
        "features turned",
        "state",
        "learning",
    )
    frozen = found["frozen"].rows
    lines = [line_of(WAYS[key], found[key], frozen) for key in WAYS if key in found]
    command = "encoder_levels.py --data FOLDER --encoder all-MiniLM-L6-v2"
    stamp = tables.stamp({"where": list(found.values())[-1].where}).replace("results.py", command)
    return "\n".join([f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *lines, "", stamp])


def line_of(way: Way, found: Measured, frozen: list[Row]) -> str:
    """Return one line of the table."""
    kept = found.rows
    tried = [
        f"**{eta:g}**: {100 * got:.1f}" if eta == found.eta else f"{eta:g}: {100 * got:.1f}" for eta, got in found.tried
    ]
    ends = [[one["task_a"][at] for one in kept if len(one["task_a"]) > 1] for at in (0, -1)]
    # the same order of classes on both sides
    gains = [one["final"] - still["final"] for one, still in zip(kept, frozen, strict=False)]
    turned = [math.degrees(math.acos(min(one["turned"], 1.0))) for one in kept if "turned" in one]
    cells = [
        way.title,
        ", ".join(tried),
        str(len(kept)),
        percent([one["final"] for one in kept]),
        percent(gains, "+") if kept is not frozen else "",
        ", ".join(percent(end) for end in ends if end),
        percent([one["refreshed"] for one in kept if "refreshed" in one]),
        f"{statistics.mean(turned):.1f}°" if turned else "",
        f"{statistics.mean(one['bytes'] for one in kept) / 1e6:.0f} MB" if kept else "",
        f"{statistics.mean(one['learning'] for one in kept):.0f} s" if kept else "",
    ]
    return f"| {' | '.join(cells)} |"


def percent(values: list[float], sign: str = "") -> str:
    """Write a mean in percent, and its spread where values differ; nothing for none."""
    return tables.over([100 * value for value in values], 1, sign) if values else ""


if __name__ == "__main__":
    main()
