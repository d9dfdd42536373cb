"""Measure what a pretrained model gains, keeps and loses when it learns what it reads: one command for every number.

    python benchmarks/stacking.py --data FOLDER [--fast]              # three stand-ins, which are trained when missing
    python benchmarks/stacking.py --data FOLDER --model Qwen/Qwen3-0.6B   # the same on a model of the Hub or a folder

Every row is kept in `results/rows/` as soon as it is measured, so an interrupted run goes on where it stopped; delete
a file to measure that row again. Rates are chosen on validation pages of the first base alone; results come from other
pages, of which a hash decides. `--fast` uses one stand-in instead of three.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
from collections.abc import Callable
from pathlib import Path

import stacking_figures
import stacking_meta
import stacking_tables
import tables
import torch
from rows import ROOT, SEEDS, Row, row
from stacking_facts import CHANGING, FACT_WAYS, LONG_FACT_WAYS, changing, facts
from stacking_state import compression, cost, identity
from stacking_texts import OTHER, READ, READ_TOKENS, STREAM, STREAM_TOKENS, load
from stacking_ways import FACTORS, RECIPES, WINDOW, Base, stack

from everlearn.evals.reading_stream import by_position, controls, late, run_stream
from everlearn.evals.stacked_way import StackedWay
from everlearn.evals.tokens import Tokens
from everlearn.evals.ways import Frozen, Way
from everlearn.memory.files import atomic_write
from everlearn.recipes import stand_in

BUCKETS = ((0, 512), (512, 1024), (1024, 2048), (2048, 4096), (4096, READ_TOKENS), (0, READ_TOKENS))
# rates are chosen on prose; Python is so far from the stand-in's books that it would decide alone
TUNE = ("austen", "darwin", "shakespeare")
HELDOUT = ("austen", "darwin", "shakespeare", "python", "war", "doyle")
PAGE = ROOT / "RESULTS.md"
READERS = ("frozen", "carried", "longer", "mlp", "all", "lora", "last_down", "mlp_again", "mlp_32", "all_32")
# what is learned about learning, and what is learned: a start for reading, with its control
STARTED = ("mlp_meta", "mlp_more", "carried_meta", "carried_more")
CONTROLLED = ("mlp", "last_down", "all", "lora")
# way -> factors on its rate: 1, and the controls that answer "would a smaller rate have done the same?"
STREAMED = {
    "frozen": (1.0,),
    "all": (1.0, 0.3, 0.1),
    "mlp_mean": (1.0,),
    "archive": (1.0, 0.3),
    "mlp": (1.0, 0.3, 0.1),
    "mlp_mean_anchor": (1.0,),
    "last_down": (1.0, 0.3),
    "last_down_mean": (1.0,),
    "archive_small": (1.0,),
    "lora": (1.0, 0.3, 0.1),
    "ewc_weak": (1.0,),
    "ewc": (1.0,),
    "replay": (1.0, 0.3),
}


def main() -> None:
    """Measure what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the books")
    parser.add_argument("--model", help="name or folder of a causal language model, instead of the stand-ins")
    parser.add_argument("--fast", action="store_true", help="one stand-in instead of three")
    parser.add_argument("--seeds", type=int, nargs="*", help="these stand-ins instead of 0, 1, 2")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds = options.seeds or (SEEDS[:1] if options.fast else SEEDS)
    names = [options.model] if options.model else [stand_in_folder(options.data, seed) for seed in seeds]
    rates = Rates(options.model or stand_in_folder(options.data, SEEDS[0]), options.data)
    runs = [measure(name, options.data, rates) for name in names]
    write(stacking_tables.all_tables(rates.all(), rates.all_starts(), runs), runs, in_page=options.model is None)


def write(texts: dict[str, str], runs: list[Row], *, in_page: bool) -> None:
    """Write the tables and figures: beside the rows, and into RESULTS.md where it has their marks."""
    folder = ROOT / "results" / "stacking"
    files = [*stacking_figures.draw(runs, folder), folder / "tables.md"]
    files[-1].write_text("\n".join(f"### {name}\n\n{text}\n" for name, text in texts.items()))
    page = PAGE.read_text()
    if in_page and "<!-- begin stacking-" in page:
        for name, text in texts.items():
            page = tables.put(page, name, lambda text=text: text)
        atomic_write(PAGE, page.encode(), private=False)
        files += [PAGE, *stacking_figures.draw(runs, ROOT / "docs")]
    print(*(f"wrote {file}" for file in files), sep="\n")


def stand_in_folder(data: Path, seed: int) -> str:
    """Return the folder of a stand-in; it is trained when it is missing."""
    folder = ROOT / "results" / f"stand-in-{seed}"
    stand_in.load_or_train(folder, data, seed=seed)
    return str(folder)


def open_base(name: str, data: Path, rates: Rates) -> Base:
    """Load a model and the texts in its tokens."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32).eval()
    starts = stacking_meta.Trainer(model, tokenizer, label(name), data, lambda: rates["mlp"], rates.of_start)
    return Base(model, tokenizer, load(data, tokenizer), starts)


def label(name: str) -> str:
    """Return a model's name as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", Path(name).name if Path(name).exists() else name)


class Rates:
    """The rate of every way, chosen on validation pages of one base when it is first asked for."""

    def __init__(self, name: str, data: Path) -> None:
        self.name, self.base = name, Lazy(lambda: open_base(name, data, self))
        self.tables: dict[str, Row] = {}
        self.starts: dict[str, Row] = {}

    def __getitem__(self, key: str) -> float:
        """Return the rate of a way; 0 for one that has none."""
        own = RECIPES[key].like or key
        if RECIPES[own].center is None:
            return 0.0
        if own not in self.tables:
            self.tables[own] = row(f"stacking-{label(self.name)}-tune-{own}", lambda: tune(self.base(), own))
        return self.tables[own]["eta"]

    def all(self) -> dict[str, Row]:
        """Return the trials of every way that has a rate of its own."""
        own = [key for key, recipe in RECIPES.items() if recipe.center is not None and not recipe.like]
        return {key: self.tables[key] for key in own if self[key]}

    def all_starts(self) -> dict[str, Row]:
        """Return the trials of every kind of start."""
        return {kind: self.starts[kind] for kind in stacking_meta.PERIODS if self.of_start(kind)}

    def of_start(self, kind: str) -> float:
        """Return the rate with which a start of a kind is trained."""
        if kind not in self.starts:
            name = f"stacking-{label(self.name)}-tune-start-{kind}"
            self.starts[kind] = row(name, lambda: tune_start(self, kind))
        return self.starts[kind]["lr"]


def tune_start(rates: Rates, kind: str) -> Row:
    """Train a start at every rate; the best reads validation pages best, at the rate of levels without a start."""
    base, trials = rates.base(), []
    documents = [base.texts.take("tune", domain, READ_TOKENS) for domain in TUNE]
    frozen = [whole(Frozen(base.model, WINDOW), document) for document in documents]
    for lr in stacking_meta.RATES:
        model = stack(base, rates["mlp"], "mlp")
        model.set_starts(base.starts(kind, lr))
        bits = [whole(StackedWay(model, WINDOW), document) for document in documents]
        ratio = statistics.fmean(math.log(b / f) for b, f in zip(bits, frozen, strict=True))
        trials.append({"lr": lr, "bits": bits, "log_ratio": ratio})
        print(f"  start {kind} {lr:.3g}: {100 * math.expm1(ratio):+.1f} %", flush=True)
    return {"lr": min(trials, key=lambda trial: trial["log_ratio"])["lr"], "trials": trials, "frozen": frozen}


def tune(base: Base, key: str) -> Row:
    """Try the rates of a grid; the best has the lowest mean logarithm of its cost over that of the frozen model."""
    documents = [base.texts.take("tune", domain, READ_TOKENS) for domain in TUNE]
    frozen = [whole(Frozen(base.model, WINDOW), document) for document in documents]
    recipe, trials = RECIPES[key], []
    assert recipe.center is not None
    for factor in FACTORS:
        eta = recipe.center * factor
        bits = [whole(recipe.make(base, eta), document) for document in documents]
        ratio = statistics.fmean(math.log(b / f) for b, f in zip(bits, frozen, strict=True))
        trials.append({"eta": eta, "bits": bits, "log_ratio": ratio if math.isfinite(ratio) else math.inf})
        print(f"  {key} {eta:.3g}: {100 * math.expm1(ratio):+.1f} %", flush=True)
    best = min(trials, key=lambda trial: trial["log_ratio"])
    return {"eta": best["eta"], "trials": trials, "frozen": frozen}


def whole(way: Way, document: Tokens) -> float:
    """Read one document; return its bits per byte."""
    return by_position(way.read(document.ids), document, [(0, len(document))])[0]


def measure(name: str, data: Path, rates: Rates) -> Row:
    """Return every row of one base."""
    base, run = Lazy(lambda: open_base(name, data, rates)), f"stacking-{label(name)}"

    def make(key: str, factor: float = 1.0) -> Callable[[], Way]:
        return lambda: RECIPES[key].make(base(), rates[key] * factor)

    rows: Row = {"name": name, "texts": row(f"{run}-texts", lambda: {"pieces": base().texts.manifest()})}
    readers = (*READERS, *STARTED)
    rows["read"] = {k: row(f"{run}-read-{k}", lambda k=k: read_documents(base(), make(k))) for k in readers}
    rows["stream"] = {
        f"{k} x{f:g}": row(f"{run}-stream-{k}-{f:g}", lambda k=k, f=f: stream(base(), make(k, f)()))
        for k, factors in STREAMED.items()
        for f in factors
    }
    rows["identity"] = row(f"{run}-identity", lambda: identity(base()))
    rows["cost"] = row(f"{run}-cost", lambda: cost(base(), rates))
    rows["compress"] = row(f"{run}-compress", lambda: compression(base(), rates))
    rows["control"] = {k: row(f"{run}-control-{k}", lambda k=k: control(base(), make(k))) for k in CONTROLLED}
    rows["facts"] = {
        f"{k} x{n}": row(f"{run}-facts-{k}-{n}", lambda k=k, n=n: facts(base(), make(k), n)) for k, n in FACT_WAYS
    }
    rows["facts_long"] = {
        f"{k} x{n}": row(f"{run}-facts_long-{k}-{n}", lambda k=k, n=n: facts(base(), make(k), n, "facts_long"))
        for k, n in LONG_FACT_WAYS
    }
    rows["changing"] = {k: row(f"{run}-changing-{k}", lambda k=k: changing(base(), make(k))) for k in CHANGING}
    return rows


def read_documents(base: Base, make: Callable[[], Way]) -> Row:
    """Read unseen documents of every domain, each from a fresh start."""
    found: Row = {"buckets": BUCKETS}
    for domain in READ:
        documents = [base.texts.take("read", domain, READ_TOKENS, i) for i in range(2)]
        ways = [make() for _ in documents]
        found[domain] = [by_position(way.read(d.ids), d, BUCKETS) for way, d in zip(ways, documents, strict=True)]
        found["state_bytes"] = ways[0].state_bytes()
    return found


def control(base: Base, make: Callable[[], Way]) -> Row:
    """Read a document of another domain, or of the same, and score a text frozen, against reading nothing."""
    asked = [base.texts.take("read", domain, READ_TOKENS) for domain in READ]
    other = [base.texts.take("read", OTHER[domain], READ_TOKENS) for domain in READ]
    same = [base.texts.take("read", domain, READ_TOKENS, 1) for domain in READ]
    kinds = {"other": controls(make, other, asked, BUCKETS), "same": controls(make, same, asked, BUCKETS)}
    return {kind: dict(zip(READ, rows, strict=True)) for kind, rows in kinds.items()}


def stream(base: Base, way: Way) -> Row:
    """Read fiction, Darwin, Shakespeare, Python and fiction again in one pass."""
    seen: dict[str, int] = {}
    documents = []
    for domain in STREAM:
        documents.append((domain, base.texts.take("stream", domain, STREAM_TOKENS, seen.get(domain, 0))))
        seen[domain] = seen.get(domain, 0) + 1
    heldout = {name: base.texts.take("heldout", name, STREAM_TOKENS) for name in HELDOUT}
    frozen = Frozen(base.model, WINDOW)
    fresh = {name: late(frozen, text) for name, text in heldout.items()}
    return run_stream(way, fresh, documents, heldout, "war", ["doyle"]).to_dict()


class Lazy:
    """What is made at the first call and kept: a base is loaded only where a row is missing."""

    def __init__(self, make: Callable[[], Base]) -> None:
        self.make, self.made = make, None

    def __call__(self) -> Base:
        """Return it."""
        self.made = self.made or self.make()
        return self.made


if __name__ == "__main__":
    main()
