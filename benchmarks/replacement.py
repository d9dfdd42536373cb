"""Put memories into the places of attentions and MLPs, one after the other, and measure what is lost after every step.

    python benchmarks/replacement.py --data FOLDER --model FOLDER [--seeds 0 1 2]

The hybrid learns from the original on the first 95 % of three books and is scored on a fourth that none of them has
read, in windows of 512 tokens. Every row is kept in `results/rows/` as soon as it is measured; delete a file to measure
that row again. The rates were chosen on the last 5 % of one of the three books, for attention. With the stand-in of
seed 0 the tables of the first seed go into RESULTS.md, between their marks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rows import ROOT, Row, row
from tables import put
from torch import Tensor

from everlearn.convert import Continuum, Delta, ReplacedModel, next_token, replace_blocks, stack_levels
from everlearn.learn import Learner
from everlearn.memory.files import atomic_write
from everlearn.models.hub import load_base
from everlearn.models.tokenizer import count_bytes, encode
from everlearn.recipes.replacement import ReplacementRecipe, bits_per_byte, gradual
from everlearn.recipes.stand_in import BOOKS, load_book, split

HELD_OUT = "austen_pride-and-prejudice"
READ = ("doyle_adventures-of-sherlock-holmes", "darwin_origin-of-species")
READ_BYTES = 12_000
WINDOW, WINDOWS = 512, 24
MLPS = 2  # of the last blocks
PHASES = {"swap": "swapped", "local": "learned locally", "whole": "tuned"}


def attention_ways(blocks: int, seed: int) -> dict[str, ReplacementRecipe]:
    """Return what is compared: the recipe, and the controls that leave out its parts, with as many whole steps."""
    order = tuple(f"block.{index}.attention" for index in reversed(range(blocks)))
    full = ReplacementRecipe(order=order, seed=seed)
    untaught = replace(full, local=0, from_projections=False)
    faster = replace(untaught, lr=3 * full.lr)  # a random start has further to go
    return {
        "distilled": full,
        "random start, no local steps": untaught,
        "the same at three times the rate": faster,
        "the same without a teacher": replace(faster, objective=next_token),
    }


def mlp_ways(blocks: int, hidden: int, seed: int) -> dict[str, ReplacementRecipe]:
    """Return what is compared for MLPs: two levels that have half of its units, a delta memory, and a control."""
    order = tuple(f"block.{index}.mlp" for index in reversed(range(blocks - MLPS, blocks)))
    half = ReplacementRecipe(order=order, mlp=Continuum(hidden_dim=hidden // 4), seed=seed)
    return {
        "levels with half of the units": half,
        "the same units drawn, no local steps": replace(half, local=0, from_projections=False),
        "delta memory": replace(half, mlp=Delta()),
    }


def main() -> None:
    """Measure what is missing, and print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the books")
    parser.add_argument("--model", required=True, help="folder of a causal language model, or its name on the hub")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0], help="of the windows and of the random starts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    name = Path(options.model).name
    config: Any = load_base(options.model)[0].config
    blocks = config.num_hidden_layers
    for seed in options.seeds:
        parts = {
            "": attention_ways(blocks, seed),
            "mlp-": mlp_ways(blocks, config.intermediate_size, seed),
        }
        measured = {
            part: {
                way: row(f"replacement-{name}-{seed}-{part}{i}", partial(measure, options, recipe))
                for i, (way, recipe) in enumerate(ways.items())
            }
            for part, ways in parts.items()
        }
        tables = {
            "replacement": table(measured[""], "attentions", blocks),
            "replacement-mlp": table(measured["mlp-"], "MLPs", blocks),
            "replacement-reading": reading_table(next(iter(measured["mlp-"].values()))["reading"]),
        }
        print("\n\n".join(tables.values()))
        if (name, seed) == ("stand-in-0", 0):
            publish(tables)


def publish(tables: dict[str, str]) -> None:
    """Write the tables into RESULTS.md."""
    page = ROOT / "RESULTS.md"
    text = page.read_text()
    for name, written in tables.items():
        text = put(text, name, lambda written=written: written)
    atomic_write(page, text.encode(), private=False)
    print(f"wrote {page}")


def measure(options: argparse.Namespace, recipe: ReplacementRecipe) -> Row:
    """Run one recipe; return the score of the original and of every stage."""
    model, tokenizer = load_base(options.model)
    ids = torch.cat([encode(tokenizer, split(load_book(options.data, name))[0]) for name in BOOKS])
    asked = encode(tokenizer, load_book(options.data, HELD_OUT))[: WINDOW * WINDOWS].reshape(WINDOWS, WINDOW)
    # all but the first of each window is predicted
    size = int(count_bytes(tokenizer, asked[:, 1:].flatten()).sum())
    stages: list[dict[str, Any]] = []
    for stage in gradual(model, ids, recipe, lambda s: bits_per_byte(s.base, asked, size), on_step=show):
        stages.append({"replaced": stage.replaced, "phase": stage.phase, "bits": stage.score, "loss": stage.loss})
        if stage.phase == "whole":
            stages[-1]["state_bytes"] = state_bytes(stage.student, asked)
        print(f"  {stage.replaced} {stage.phase}: {stage.score:.4f} bits per byte", flush=True)
    result: Row = {
        "original": bits_per_byte(model, asked, size),
        "original_state_bytes": state_bytes(replace_blocks(model), asked),
        "recipe": recipe.to_dict(),
        "stages": stages,
    }
    if stage.student.memories():
        result["reading"] = read(options, stage.student, tokenizer)
    return result


def read(options: argparse.Namespace, student: ReplacedModel, tokenizer: Any) -> dict[str, dict[str, float]]:
    """Read books that nothing has learned from; return way -> book -> bits per byte."""
    student.tokenizer = tokenizer
    texts = {name: load_book(options.data, name).encode()[:READ_BYTES].decode(errors="ignore") for name in READ}
    base, _ = load_base(options.model)

    def bits(reader: Learner, *, learn: bool) -> dict[str, float]:
        way: Callable[..., Any] = (lambda t, n: reader.read(t, n)) if learn else (lambda t, _: reader.score(t))
        return {name: way(text, name.split("_")[0]).bits_per_byte for name, text in texts.items()}

    plain = Learner(stack_levels(base, tokenizer))
    found = {"original, frozen": bits(plain, learn=False), "original, levels on all MLPs": bits(plain, learn=True)}
    own = Learner(student)
    found |= {"hybrid, frozen": bits(own, learn=False), "hybrid, its own levels": bits(own, learn=True)}
    return found | {"hybrid, its own and on the other MLPs": bits(Learner(stack_levels(student)), learn=True)}


def state_bytes(model: ReplacedModel, ids: Tensor) -> int:
    """Return what one stream carries after a window."""
    with torch.no_grad():
        return model(ids[:1], model.initial_state(1))[1].nbytes()


def show(count: int, phase: str, step: int, loss: float) -> None:
    """Print progress now and then."""
    if step % 25 == 0:
        print(f"  {count} {phase} step {step}: {loss:.4f}", file=sys.stderr, flush=True)


def table(rows: dict[str, Row], what: str, blocks: int) -> str:
    """Return a table in Markdown: one line for each way and phase, and what a stream carries where that differs."""
    first = next(iter(rows.values()))
    counts = sorted({stage["replaced"] for stage in first["stages"]})
    original = [f"{first['original']:.3f}"] * len(counts)
    lines = [line(f"of {blocks} {what} replaced", map(str, counts)), "|---|" + "---|" * len(counts)]
    lines.append(line("the original", original))
    shown: list[list[str]] = []
    for way, result in rows.items():
        for phase, words in PHASES.items():
            if phase != "local" or result["recipe"]["local"]:
                bits = [f"{stage['bits']:.3f}" for stage in result["stages"] if stage["phase"] == phase]
                lines.append(line(f"{way}: {words}", bits))
        kept = [f"{stage['state_bytes'] / 1000:,.0f}" for stage in result["stages"] if "state_bytes" in stage]
        if kept not in shown:
            lines.append(line(f"{way}: KB of one stream after {WINDOW} tokens", kept))
            shown.append(kept)
    lines.append(f"\nThe original's state: {first['original_state_bytes'] / 1000:,.0f} KB. {stamp(rows)}")
    return "\n".join(lines)


def line(head: str, cells: Iterable[str]) -> str:
    """Return one row of a table."""
    return f"| {head} | {' | '.join(cells)} |"


def reading_table(reading: dict[str, dict[str, float]]) -> str:
    """Return a table in Markdown: one line for each way to read, one column for each book."""
    heads = [name.split("_")[0].capitalize() for name in READ]
    lines = [line(f"bits per byte of {READ_BYTES:,} bytes", heads), "|---|" + "---|" * len(READ)]
    return "\n".join([*lines, *(line(way, [f"{bits[n]:.3f}" for n in READ]) for way, bits in reading.items())])


def stamp(rows: dict[str, Row]) -> str:
    """Say where and when the rows were measured."""
    at = [result["where"] for result in rows.values()]
    commits = ", ".join(dict.fromkeys(where["commit"] for where in at))
    return (
        f"`python benchmarks/replacement.py`, commit {commits}, {at[0]['machine']}, torch {at[0]['torch']}, "
        f"{', '.join(dict.fromkeys(where['date'] for where in at))}."
    )


if __name__ == "__main__":
    main()
