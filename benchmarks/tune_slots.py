"""Choose how slots are mixed in, on validation pages only: `python benchmarks/tune_slots.py --data FOLDER`.

Twenty facts that no other run uses stand in a page of Austen; the questions stand behind a page of Darwin. Printed for
every setting: the rank of the right name, and the cost on later parts of the pages of Darwin and Shakespeare. The
choice, kept in `stacking_ways`, is among the lowest ranks that of the least cost.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import torch
from stacking import open_base
from stacking_facts import PROMPT_TOKENS
from stacking_texts import FACT_TOKENS
from stacking_ways import RECIPES, Base

from everlearn.evals.facts import continuation_scores, hide, invent, name_scores, ranks
from everlearn.evals.reading_stream import late
from everlearn.evals.slots_way import SlotsWay
from everlearn.evals.tokens import encode
from everlearn.memory.slots import SlotMemory

SEED = 100
HELD_TOKENS = 3_073
GATES, WEIGHTS = (0.7, 0.8, 0.9), (0.5, 0.2, 0.05)


def main() -> None:
    """Read once, then ask with every setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the books")
    parser.add_argument("--base", default="results/stand-in-0", help="folder of the base model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = open_base(options.base, options.data)
    held = [base.texts.take("tune", domain, HELD_TOKENS) for domain in ("darwin", "shakespeare")]
    frozen = [late(RECIPES["frozen"].make(base, 0.0), text) for text in held]
    known = invent(seed=SEED)
    way = RECIPES["slots"].make(base, 0.0)
    assert isinstance(way, SlotsWay)
    prose = base.tokenizer.decode(base.texts.take("tune", "austen", FACT_TOKENS).ids)
    way.read(encode(base.tokenizer, hide(known, prose, seed=SEED)))
    print("| gate | weight | rank | first of 20 | cost, Darwin | cost, Shakespeare |\n|---|---|---|---|---|---|")
    for gate, weight in itertools.product(GATES, WEIGHTS):
        way.slots = SlotMemory(gate=gate, weight=weight)
        place = ranks(ask(base, way), list(range(len(known))))
        costs = " | ".join(f"{late(way, text) - bits:+.3f}" for text, bits in zip(held, frozen, strict=True))
        print(f"| {gate} | {weight} | {float(place.mean()):.1f} | {int((place == 1).sum())} | {costs} |", flush=True)


def ask(base: Base, way: SlotsWay) -> torch.Tensor:
    """Return the log-probability of each name after each question."""
    known = invent(seed=SEED)
    prose = base.texts.take("tune", "darwin", len(known) * PROMPT_TOKENS).ids.split(PROMPT_TOKENS)
    questions = [
        torch.cat([before, encode(base.tokenizer, f" It was late. {fact.question}")])
        for before, fact in zip(prose, known, strict=True)
    ]
    names = [encode(base.tokenizer, f" {fact.name}") for fact in known]
    return name_scores(lambda q, all_names: continuation_scores(way.logits, q, all_names), questions, names)


if __name__ == "__main__":
    main()
