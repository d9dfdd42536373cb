"""Replace attention by delta memories, block by block, and measure what is lost after every step.

    python benchmarks/replacement.py --data FOLDER --model FOLDER [--seeds 0 1 2]

The hybrid learns from the original on the first 95 % of three books and is scored on a fourth that none of them has
read, in windows of 512 tokens. Every row is kept in `results/rows/` as soon as it is measured; delete a file to measure
that row again. The rates were chosen on the last 5 % of one of the three books.
"""

from __future__ import annotations

import argparse
import gzip
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rows import Row, row
from torch import Tensor, nn

from everlearn.convert import ReplacedModel, next_token, replace_attention
from everlearn.convert.hub import load_base
from everlearn.models.tokenizer import count_bytes, encode
from everlearn.recipes.replacement import ReplacementRecipe, gradual

BOOKS = ("tolstoy_war-and-peace", "eliot_middlemarch", "melville_moby-dick")
HELD_OUT = "austen_pride-and-prejudice"
WINDOW, WINDOWS = 512, 24
PHASES = {"swap": "swapped", "local": "learned locally", "whole": "tuned"}


def ways(order: tuple[int, ...], seed: int) -> dict[str, ReplacementRecipe]:
    """Return what is compared: the recipe, and the controls that leave out its parts, with as many whole steps."""
    full = ReplacementRecipe(order=order, seed=seed)
    untaught = replace(full, local=0, from_projections=False)
    faster = replace(untaught, lr=3 * full.lr)  # a random start has further to go
    return {
        "distilled": full,
        "random start, no local steps": untaught,
        "the same at three times the rate": faster,
        "the same without a teacher": replace(faster, objective=next_token),
    }


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the books")
    parser.add_argument("--model", required=True, help="folder of a causal language model, or its name on the hub")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0], help="of the windows and of the random starts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    name = Path(options.model).name
    blocks = load_base(options.model)[0].config.num_hidden_layers  # type: ignore[union-attr]
    order = tuple(reversed(range(blocks)))
    for seed in options.seeds:
        rows = {
            way: row(f"replacement-{name}-{seed}-{i}", lambda recipe=recipe: measure(options, recipe))
            for i, (way, recipe) in enumerate(ways(order, seed).items())
        }
        print(table(rows, blocks))


def measure(options: argparse.Namespace, recipe: ReplacementRecipe) -> Row:
    """Run one recipe; return the score of the original and of every stage."""
    model, tokenizer = load_base(options.model)
    books = [book(options.data, name) for name in BOOKS]
    ids = torch.cat([encode(tokenizer, text[: int(0.95 * len(text))]) for text in books])
    asked = encode(tokenizer, book(options.data, HELD_OUT))[: WINDOW * WINDOWS].reshape(WINDOWS, WINDOW)
    # all but the first of each window is predicted
    size = int(count_bytes(tokenizer, asked[:, 1:].flatten()).sum())

    def evaluate(student: ReplacedModel) -> float:
        return bits_per_byte(student.base, asked, size)

    stages: list[dict[str, Any]] = []
    for stage in gradual(model, ids, recipe, evaluate, on_step=show):
        stages.append({"replaced": stage.replaced, "phase": stage.phase, "bits": stage.score, "loss": stage.loss})
        if stage.phase == "whole":
            stages[-1]["state_bytes"] = state_bytes(stage.student, asked)
        print(f"  {stage.replaced} {stage.phase}: {stage.score:.4f} bits per byte", flush=True)
    plain = replace_attention(model, layers=())
    return {
        "original": bits_per_byte(model, asked, size),
        "original_state_bytes": state_bytes(plain, asked),
        "recipe": asdict(recipe) | {"objective": recipe.objective.__name__},  # type: ignore[attr-defined]
        "stages": stages,
    }


def book(folder: Path, name: str) -> str:
    """Return the text of one book."""
    return gzip.decompress((folder / f"{name}.txt.gz").read_bytes()).decode("utf-8")


def bits_per_byte(model: nn.Module, ids: Tensor, size: int) -> float:
    """Score windows, each from an empty start; `size` is the bytes of all targets."""
    with torch.no_grad():
        losses = [
            float(next_token(model(input_ids=part, use_cache=False).logits, part, part)) * part[:, 1:].numel()
            for part in ids.split(4)
        ]
    return sum(losses) / math.log(2) / size


def state_bytes(model: ReplacedModel, ids: Tensor) -> int:
    """Return what one stream carries after a window."""
    with torch.no_grad():
        return model(ids[:1])[1].nbytes()


def show(count: int, phase: str, step: int, loss: float) -> None:
    """Print progress now and then."""
    if step % 25 == 0:
        print(f"  {count} {phase} step {step}: {loss:.4f}", file=sys.stderr, flush=True)


def table(rows: dict[str, Row], blocks: int) -> str:
    """Return a table in Markdown: one line for each way and phase."""
    first = next(iter(rows.values()))
    heads = " | ".join(str(count) for count in range(1, blocks + 1))
    lines = [f"| bits per byte, of {blocks} attentions replaced | {heads} |", "|---|" + "---|" * blocks]
    lines.append("| the original | " + " | ".join([f"{first['original']:.3f}"] * blocks) + " |")
    for way, result in rows.items():
        for phase, words in PHASES.items():
            if phase == "local" and not result["recipe"]["local"]:
                continue
            cells = [f"{stage['bits']:.3f}" for stage in result["stages"] if stage["phase"] == phase]
            lines.append(f"| {way}: {words} | {' | '.join(cells)} |")
    kept = [f"{s['state_bytes'] / 1000:,.0f} KB" for s in first["stages"] if s["phase"] == "whole"]
    lines.append(f"| state of one stream after {WINDOW} tokens | {' | '.join(kept)} |")
    lines.append(f"\nThe original's state: {first['original_state_bytes'] / 1000:,.0f} KB. {first['where']}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
