"""What a step of each optimizer costs: `python benchmarks/optimizer_cost.py [--rounds 12]`, for RESULTS.md.

One small language model; all optimizers step it in turn in one process, on gradients that stay the same, and the
fastest of many rounds counts. The row is kept in `results/rows/`; delete the file to measure again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from rows import ROOT, Row, row
from tables import put
from torch import Tensor

from everlearn import optim, rules
from everlearn.learn.chunk import token_nll
from everlearn.memory.files import atomic_write
from everlearn.models import Decoder, preset

PAGE = ROOT / "RESULTS.md"
NEVER = 10**9
TOKENS = (16, 128)  # windows and their length, of one training step
Optimizers = list[torch.optim.Optimizer]


@dataclass(frozen=True)
class Way:
    """One row of the table.

    Args:
        name: as the table says it.
        make: makes the optimizers of a model.
        periods: of M3: how many steps lie between two refreshes; measured from a step with a refresh and one without.
    """

    name: str
    make: Callable[[torch.nn.Module], Optimizers]
    periods: tuple[int, ...] = ()


def of_matrices(kind: Callable[..., torch.optim.Optimizer], **options: Any) -> Callable[[torch.nn.Module], Optimizers]:
    """Give the hidden matrices to an optimizer of ours and the rest to the AdamW within it."""
    return lambda model: [kind(optim.groups(model), **options)]


def torch_muon(model: torch.nn.Module) -> Optimizers:
    """Do the same with torch's Muon and AdamW."""
    hidden, rest = ([p for _, p in group["params"]] for group in optim.groups(model))
    return [torch.optim.Muon(hidden, adjust_lr_fn="match_rms_adamw", weight_decay=0.0), torch.optim.AdamW(rest)]


M3, REFRESH = "M3", ", refresh"
WAYS = (
    Way("torch AdamW", lambda model: [torch.optim.AdamW(model.parameters())]),
    Way("Momentum", lambda model: [optim.Momentum(model.parameters())]),
    Way("PreconditionedMomentum", lambda model: [optim.PreconditionedMomentum(model.parameters())]),
    Way("DeltaMomentum", lambda model: [optim.DeltaMomentum(model.parameters())]),
    Way("DeltaMomentum, matrix form", of_matrices(optim.DeltaMomentum, form=rules.delta_momentum_matrix)),
    Way("DeepMomentum", of_matrices(optim.DeepMomentum)),
    Way("torch Muon, bfloat16 inside", torch_muon),
    Way("Muon", of_matrices(optim.Muon)),
    Way("M3, alpha 0", of_matrices(optim.M3, alpha=0.0)),
    Way(M3, of_matrices(optim.M3, slow_period=NEVER), (10, 50)),
    Way("Muon, bfloat16 inside", of_matrices(optim.Muon, ns_dtype=torch.bfloat16)),
    Way(f"{M3}, bfloat16 inside", of_matrices(optim.M3, slow_period=NEVER, ns_dtype=torch.bfloat16), (10,)),
    Way(f"{M3}, bfloat16 inside{REFRESH}", of_matrices(optim.M3, slow_period=1, ns_dtype=torch.bfloat16)),
    Way(M3 + REFRESH, of_matrices(optim.M3, slow_period=1)),
)


def main() -> None:
    """Measure what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = row("optimizer-cost", lambda: measure(options.rounds))
    atomic_write(PAGE, put(PAGE.read_text(), "optimizer-cost", lambda: table(found)).encode(), private=False)
    print(f"wrote {PAGE}")


def measure(rounds: int) -> Row:
    """Return the fastest CPU seconds of a step of each way and of a forward and backward pass, and the bytes kept."""
    torch.manual_seed(0)
    model = Decoder(preset("transformer++", dim=256, num_layers=4, num_heads=4, hidden_dim=768, vocab_size=256))
    ids = torch.randint(256, (TOKENS[0], TOKENS[1] + 1))
    _pass(model, ids)
    steppers = {way.name: way.make(model) for way in WAYS}
    fastest = dict.fromkeys([*steppers, "pass"], float("inf"))
    for turn in range(rounds + 1):
        for name, optimizers in steppers.items():
            # the weights move, the gradients stay; the first turn is for what is made at the first step
            seconds = _seconds(lambda optimizers=optimizers: [optimizer.step() for optimizer in optimizers])
            fastest[name] = min(fastest[name], seconds) if turn else float("inf")
        if turn % 3 == 0:
            fastest["pass"] = min(fastest["pass"], _seconds(lambda: _pass(model, ids)))
    hidden = [p for _, p in optim.groups(model)[0]["params"]]
    kept = {name: _bytes(optimizers, hidden) for name, optimizers in steppers.items()}
    return {"seconds": fastest, "bytes": kept, "parameters": sum(p.numel() for p in model.parameters())}


def _pass(model: Decoder, ids: Tensor) -> None:
    model.zero_grad()
    logits, _ = model(ids[:, :-1])
    token_nll(logits, ids[:, 1:]).mean().backward()


def _seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _bytes(optimizers: Optimizers, hidden: list[Tensor]) -> float:
    """Return the bytes kept for each number of the hidden matrices."""
    states = [optimizer.state[p] for optimizer in optimizers for p in hidden if p in optimizer.state]
    return sum(slot.nbytes for state in states for slot in state.values()) / sum(p.numel() for p in hidden)


def table(found: Row) -> str:
    """Write the ratios."""
    seconds, kept, at = found["seconds"], found["bytes"], found["where"]
    adamw, muon, whole = seconds["torch AdamW"], seconds["Muon"], seconds["pass"]
    lines = [
        "| optimizer | step, x AdamW | step, x Muon | training step, x AdamW | the same, x Muon | bytes per number |",
        "|---|---|---|---|---|---|",
    ]

    def line(name: str, cost: float, size: float) -> str:
        shares = (cost / adamw, cost / muon, (whole + cost) / (whole + adamw), (whole + cost) / (whole + muon))
        return f"| {name} | {' | '.join(f'{share:.2f}' for share in shares)} | {size:.1f} |"

    for way in [way for way in WAYS if not way.name.endswith(REFRESH)]:
        plain, refresh = seconds[way.name], seconds.get(way.name + REFRESH, 0.0) - seconds[way.name]
        costs = {f"{way.name}, refresh every {n} steps": plain + refresh / n for n in way.periods} or {way.name: plain}
        lines += [line(name, cost, kept[way.name]) for name, cost in costs.items()]
    facts = (
        f"A Transformer of {found['parameters']:,} parameters, {TOKENS[0] * TOKENS[1]:,} tokens a step; AdamW is "
        f"{100 * adamw / (whole + adamw):.1f} % of its training step. Fastest of the rounds, CPU time, in turn in one "
        f"process. `python benchmarks/optimizer_cost.py`, commit {at['commit']}, {at['machine']}, torch {at['torch']}, "
        f"{at['date']}."
    )
    return "\n".join([*lines, "", facts])


if __name__ == "__main__":
    main()
