"""A small reader of old novels, trained on public-domain books alone, with a card that says what was measured.

`python -m everlearn.recipes.books --data FOLDER --out FOLDER` trains it (interrupted, the same command goes on),
measures it on books that it has not read, and leaves `model` in OUT: config, weights and card, ready for `--base`.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import platform
import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from everlearn.evals.documents import Piece, assign
from everlearn.evals.yardsticks import counted, gzip_bits, trained_ngram, xz_bits
from everlearn.learn import Learner
from everlearn.models import load_model, save_model
from everlearn.recipes.card import card
from everlearn.recipes.pretrain import recipe
from everlearn.recipes.stand_in import BOOKS, load_book
from everlearn.train import Progress, RunConfig, run
from everlearn.train.corpus import split

PRESET, SIZE, STEPS = "hope_attention", "tiny", 3_000
# nobody chose anything on them: their pieces are picked by a hash
UNSEEN = ("austen_pride-and-prejudice", "doyle_adventures-of-sherlock-holmes", "darwin_origin-of-species")
PIECES, LENGTH = 2, 16_000
PROMPT, WRITTEN = "It was a bright morning, and ", 240


def training(preset: str = PRESET, steps: int = STEPS, seed: int = 0) -> RunConfig:
    """Return the run: windows of 256 bytes, 16 in a step, with the rates of the size."""
    return recipe(preset, SIZE, training={"steps": steps, "seed": seed}, save_every=100, valid_every=250)


def make(
    data: Path,
    out: Path,
    config: RunConfig,
    *,
    preset: str = PRESET,
    on_step: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train, measure, and write the model with its card.

    Args:
        data: folder of the books.
        out: folder; the run goes to `run` in it, what is to be published to `model`.
        config: of the run.
        preset: its name, for the card.
        on_step, say: see `train.run`.
    Returns:
        the facts on the card.
    Raises:
        ValueError: a book is missing, or see `train.run`.
    """
    texts = {name: load_book(data, name).encode() for name in BOOKS}
    unseen = {name: load_book(data, name) for name in UNSEEN}
    summary = run(config, texts, out / "run", on_step=on_step, say=say)
    model, about = load_model(out / "run")
    learner = Learner(model)
    ngram = trained_ngram(part.data for part in split(texts, config.valid_share).train)
    rows = [
        measure(learner, ngram, piece)
        for name, text in unseen.items()
        for piece in assign(name, text, {"card": PIECES}, length=LENGTH)["card"]
    ]
    facts = {
        "preset": preset,
        "size": SIZE,
        **summary,
        "training": dataclasses.asdict(config.training),
        "data": about["data"],
        "rows": rows,
        "prompt": PROMPT,
        "written": learner.generate(PROMPT, max_new_tokens=WRITTEN, temperature=0.7, seed=0),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    save_model(model, out / "model", about)
    weights = out / "model" / "model.safetensors"
    facts |= {"megabytes": weights.stat().st_size / 1e6, "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
    (out / "model" / "README.md").write_text(card(facts), encoding="utf-8")
    (out / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
    return facts


def measure(learner: Learner, ngram: Any, piece: Piece) -> dict[str, Any]:
    """Return the bits per byte of a piece every way; what is learned from it is thrown away."""
    data = piece.text.encode()
    by_count = counted(ngram, data, trained=True)
    frozen = learner.score(data).bits_per_byte
    learning = learner.read(data, user="card").bits_per_byte
    learner.forget("card")
    return {
        "book": piece.domain,
        "piece": piece.index,
        "bytes": len(data),
        "gzip": gzip_bits(data),
        "xz": xz_bits(data),
        "ngram_frozen": by_count.frozen,
        "ngram_learning": by_count.learning,
        "frozen": frozen,
        "learning": learning,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the model from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the books")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run and of the model")
    parser.add_argument("--preset", default=PRESET)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)

    def show(now: Progress) -> None:
        if now.step.number % 20 == 0:
            shown = f"{now.step.bits_per_byte:.3f} bits per byte, {now.seconds_left / 60:.0f} min left"
            print(f"step {now.step.number}: {shown}", file=sys.stderr, flush=True)

    config = training(options.preset, options.steps, options.seed)
    facts = make(options.data, options.out, config, preset=options.preset, on_step=show, say=print)
    spent = resource.getrusage(resource.RUSAGE_SELF)
    print(f"{options.out / 'model'}: {facts['parameters']:,} parameters, {facts['megabytes']:.1f} MB")
    print(f"{spent.ru_utime + spent.ru_stime:.0f} CPU seconds in this process")


if __name__ == "__main__":
    main()
