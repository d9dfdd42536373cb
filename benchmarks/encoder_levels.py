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
    rows = {key: measured(name, key, texts, options.seeds) for key in options.ways}
    if "frozen" in rows and options.seeds:
        text = tables.put(PAGE.read_text(), f"encoder {options.set}", lambda: table(rows))
        atomic_write(PAGE, text.encode(), private=False)
        print(f"wrote {PAGE}")


def measured(name: str, key: str, texts: Callable[[], Texts], seeds: Sequence[int]) -> list[Row]:
    """Choose the step size of a way, and return what it does with it, a row for each seed, and what was tried."""
    way = WAYS[key]
    sizes = row(f"{name}-shrinkage", lambda: search_shrinkage(texts()))["scores"]
    shrinkage = max(sizes, key=lambda found: found[1])[0]
    tried = [
        row(f"{name}-{key}-search-{eta:g}", partial(lambda eta: search(way, texts(), eta, shrinkage, SEARCH_SEED), eta))
        for eta in way.etas
    ]
    # among equals the first, which is the smallest
    eta = max(tried, key=lambda one: one["score"])["eta"]
    print(key, *(f"{one['eta']:g}: {100 * one['score']:.1f}" for one in tried), flush=True)
    about = {"eta": eta, "shrinkage": shrinkage, "tried": [[one["eta"], one["score"]] for one in tried]}
    return [
        row(
            f"{name}-{key}-{eta:g}-{seed}",
            partial(lambda seed: measure(way, texts(), eta, shrinkage, seed, refresh=seed == 0), seed),
        )
        | about
        for seed in seeds
    ]


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


def table(rows: dict[str, list[Row]]) -> str:
    """One line for each way: mean and spread over the seeds, in percent."""
    lines = [
        "| encoder | step: validation | test, all classes | by class | first classes after the first and the last "
        "experience | the same, sums refreshed | features turned | state | learning |",
        "|---" * 9 + "|",
    ]
    lines += [line_of(way, rows[key]) for key, way in WAYS.items() if key in rows]
    frozen = statistics.mean(one["final"] for one in rows["frozen"])
    gains = ", ".join(
        f"{way.title} {percent([one['final'] - frozen for one in rows[key]], '+')}"
        for key, way in WAYS.items()
        if key != "frozen" and key in rows
    )
    return "\n".join([*lines, "", f"Against the frozen encoder: {gains}. {stamp(rows)}"])


def line_of(way: Way, kept: list[Row]) -> str:
    """Return one line of the table."""
    tried = ", ".join(
        f"**{eta:g}: {100 * score:.1f}**" if eta == kept[0]["eta"] else f"{eta:g}: {100 * score:.1f}"
        for eta, score in kept[0]["tried"]
    )
    firsts, lasts = ([one["task_a"][at] for one in kept if len(one["task_a"]) > 1] for at in (0, -1))
    refreshed = [one["refreshed"] for one in kept if "refreshed" in one and not way.rewrites]
    turned = [math.degrees(math.acos(min(one["turned"], 1.0))) for one in kept if "turned" in one]
    cells = [
        way.title,
        tried,
        percent([one["final"] for one in kept]),
        percent([one["macro"] for one in kept]),
        f"{percent(firsts)}, {percent(lasts)}" if firsts else "",
        percent(refreshed) if refreshed else "",
        f"{statistics.mean(turned):.0f}°" if turned else "",
        f"{statistics.mean(one['bytes'] for one in kept) / 1e6:.0f} MB",
        f"{statistics.mean(one['learning'] for one in kept):.0f} s",
    ]
    return f"| {' | '.join(cells)} |"


def percent(values: list[float], sign: str = "") -> str:
    """Write a mean in percent, and its spread where values differ."""
    return tables.over([100 * value for value in values], 1, sign)


def stamp(rows: dict[str, list[Row]]) -> str:
    """Say how, where and when it was measured."""
    seeds = len(rows["frozen"])
    command = "encoder_levels.py --data FOLDER --encoder all-MiniLM-L6-v2"
    return f"{seeds} seeds. {tables.stamp(rows['frozen'][-1]).replace('results.py', command)}"


if __name__ == "__main__":
    main()
