"""Which optimizer keeps what was learned, without replay: `python benchmarks/protect.py [--data FOLDER]`.

Five permuted tasks of digits, and three domains of text for a small byte model. Every row is kept in `results/rows/` as
soon as it is measured, so an interrupted run goes on where it stopped. Each method is tried with three rates on a
validation seed; the one with the best sum of newest and old is then run on the seeds of the table.
"""

from __future__ import annotations

import argparse
from functools import cache, partial
from pathlib import Path

import protect_cost
import protect_digits
import protect_tables
import protect_text
import tables
import torch
from rows import ROOT, Row, row

from everlearn.memory.files import atomic_write

PAGE = ROOT / "RESULTS.md"
VALIDATION_SEED = 100
DIGIT_SEEDS, TEXT_SEEDS = range(5), range(3)
NOISY = ("AdamW", "DGD around AdamW, rho 3", "Muon", "M3, alpha 1, f 50", "momentum, OWM's control (kappa 0)", "OWM")


def main() -> None:
    """Measure what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the books; without it the text is not measured")
    parser.add_argument("--only", choices=("digits", "text", "cost"), help="one of the parts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    if options.only in (None, "cost"):
        found["protect-cost"] = protect_tables.cost(row("protect-cost", protect_cost.measure))
    if options.only in (None, "digits"):
        found["protect-digits"] = protect_tables.digits(digits())
    if options.data and options.only in (None, "text"):
        found["protect-text"] = protect_tables.text(text(options.data))
    page = PAGE.read_text()
    for name, drawn in found.items():
        page = tables.put(page, name, lambda drawn=drawn: drawn)
    atomic_write(PAGE, page.encode(), private=False)
    print(f"wrote {PAGE}")


def digits() -> dict[str, dict[str, Row]]:
    """Return a row for each world and method; on permuted digits every rate is run on every seed."""
    return {
        world: {
            name: row(f"protect-digits-{key(world)}-{key(name)}", partial(digits_row, world, name))
            for name in protect_digits.METHODS
            if world in ("permuted", "pairs of classes") or name in NOISY
        }
        for world in protect_digits.WORLDS
    }


def digits_row(world: str, name: str) -> Row:
    """Choose a rate on the validation seed, and learn with it on the others."""
    method, stream = protect_digits.METHODS[name], protect_digits.WORLDS[world]
    tried = {lr: protect_digits.learn(method, lr, stream, VALIDATION_SEED, validation=True) for lr in method.rates}
    chosen = max(tried, key=lambda lr: sum(tried[lr]))
    shown = method.rates if world == "permuted" else (chosen,)
    runs = {str(lr): [protect_digits.learn(method, lr, stream, seed) for seed in DIGIT_SEEDS] for lr in shown}
    return {"chosen": str(chosen), "runs": runs, "validation": {str(lr): pair for lr, pair in tried.items()}}


def text(folder: Path) -> dict[str, Row]:
    """Return a row for each method."""

    @cache
    def data() -> protect_text.Data:
        return protect_text.load_domains(folder)

    return {
        name: row(f"protect-text-{key(name)}", lambda name=name: text_row(name, data()))
        for name in protect_text.METHODS
    }


def text_row(name: str, data: protect_text.Data) -> Row:
    """Choose a setting on the validation seed and texts, and learn with it on the others."""
    method = protect_text.METHODS[name]
    tried = {s: protect_text.learn(method, s, data, VALIDATION_SEED, part="validation") for s in method.rates}
    chosen = min(tried, key=lambda s: protect_text.newest_and_old_sum(tried[s]))
    runs = [protect_text.learn(method, chosen, data, seed) for seed in TEXT_SEEDS]
    return {"chosen": chosen, "runs": runs, "validation": {str(s): run for s, run in tried.items()}}


def key(name: str) -> str:
    """Return a name as it may stand in the name of a file."""
    return "".join(letter if letter.isalnum() else "_" for letter in name)


if __name__ == "__main__":
    main()
