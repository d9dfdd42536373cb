"""Write 10,000 pairs into every associative memory that can be combined: `python benchmarks/combinations.py`.

Rows of a memory never mix, so all objectives and retentions of one architecture and rule run side by side in one batch.
Each batch is kept in `results/rows/combinations/` as soon as it is measured, so an interrupted run goes on where it
stopped; delete a file to measure it again. `--workers 2` runs two at a time. At its end it writes
docs/guide/combinations.md; `--page` writes it from what was measured so far.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from everlearn import rules
from everlearn.memory import (
    Anchor,
    AssociativeMemory,
    Decay,
    Huber,
    Keep,
    Lp,
    Matrix,
    NonParametric,
    Objective,
    ResidualMLP,
    Retention,
    TrustRegion,
    Vector,
    dot,
    kl,
    l2,
    refusal,
)
from everlearn.memory.files import atomic_write

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "guide" / "combinations.md"
FOLDER = ROOT / "results" / "rows" / "combinations"
ROWS = 4  # per combination; see `stream`
Row = dict[str, Any]
DIM, WRITES, EVERY = 8, 10_000, 1_000

ARCHITECTURES = {
    "vector": Vector(DIM),
    "matrix": Matrix(DIM),
    "residual MLP": ResidualMLP(DIM, 2 * DIM),
    "non-parametric": NonParametric(DIM),
}
OBJECTIVES = {"dot": dot, "L2": l2, "Lp": Lp(1.5), "Huber": Huber(0.5), "KL": kl}
RETENTIONS = {"keep": Keep(), "decay": Decay(0.99), "anchor": Anchor(0.01), "trust region": TrustRegion(0.5)}
# the largest step size that is tried, in the unit of each rule: of the gradient, or of the weights
STEPS = {
    "gd": 1.0,
    "momentum": 1.0,
    "preconditioned": 0.1,
    "delta_momentum": 1.0,
    "delta_momentum_matrix": 1.0,
    "deep_momentum": 0.1,
    "dgd": 1.0,
    "adam": 0.1,
    "oja": 1.0,
    "omega": 0.25,
    "newton_schulz": 0.1,
    "m3": 0.1,
    "least_squares": 1.0,
    "owm": 1.0,
}
RULES = {name: vars(rules)[name] for name in STEPS if name in vars(rules)} | {"exact": None}


@dataclass(frozen=True)
class Combination:
    """One choice of each, by name."""

    architecture: str
    objective: str
    retention: str
    rule: str
    window: int = 1

    def refusal(self) -> str | None:
        """Say why it cannot work."""
        return refusal(
            ARCHITECTURES[self.architecture],
            OBJECTIVES[self.objective],
            RETENTIONS[self.retention],
            RULES[self.rule],
            self.window,
        )

    def build(self) -> AssociativeMemory:
        """Return the memory."""
        return build(self, OBJECTIVES[self.objective], RETENTIONS[self.retention])


class Beside:
    """All objectives and retentions side by side, as rows [objective, retention, stream]."""

    def __call__(self, prediction: Tensor, value: Tensor) -> Tensor:
        """Return each row's own loss, [B, T]."""
        parts = zip(OBJECTIVES.values(), prediction.chunk(len(OBJECTIVES)), value.chunk(len(OBJECTIVES)), strict=True)
        return torch.cat([objective(y, v) for objective, y, v in parts])

    def before(self, weights: Tensor, start: Tensor) -> Tensor:
        """Return what each row's retention steps from."""
        parts = zip(RETENTIONS.values(), self._split(weights), strict=True)
        return self._join([retention.before(rows, start) for retention, rows in parts])

    def after(self, new: Tensor, old: Tensor) -> Tensor:
        """Return what each row's retention stores."""
        parts = zip(RETENTIONS.values(), self._split(new), self._split(old), strict=True)
        return self._join([retention.after(rows, before) for retention, rows, before in parts])

    def _split(self, rows: Tensor) -> list[Tensor]:
        """Return the rows of each retention."""
        found = rows.unflatten(0, (len(OBJECTIVES), len(RETENTIONS), ROWS)).unbind(1)
        return [part.flatten(0, 1) for part in found]

    def _join(self, parts: list[Tensor]) -> Tensor:
        """Undo `_split`."""
        return torch.stack([part.unflatten(0, (-1, ROWS)) for part in parts], 1).flatten(0, 2)


def build(one: Combination, objective: Objective, retention: Retention) -> AssociativeMemory:
    """Return a memory with the architecture, rule and window of a combination."""
    return AssociativeMemory(
        ARCHITECTURES[one.architecture],
        objective,
        retention,
        RULES[one.rule],
        eta=None if one.rule == "exact" else STEPS[one.rule] / one.window,
        window=one.window,
    )


def combinations() -> list[Combination]:
    """Return every combination, and plain steps with a window of four tokens."""
    four = itertools.product(ARCHITECTURES, OBJECTIVES, RETENTIONS, RULES)
    three = itertools.product(ARCHITECTURES, OBJECTIVES, RETENTIONS)
    return [Combination(*one) for one in four] + [Combination(*one, "gd", 4) for one in three]


def batches() -> list[list[Combination]]:
    """Return the combinations that fit, those that can run side by side together."""
    found: dict[tuple[object, ...], list[Combination]] = {}
    for one in combinations():
        side = Beside()
        anything = refusal(ARCHITECTURES[one.architecture], side, side, RULES[one.rule], one.window) is None
        if anything or one.refusal() is None:
            own = () if anything else (one.objective, one.retention)
            found.setdefault((one.architecture, one.rule, one.window, *own), []).append(one)
    return list(found.values())


def stream(objective: str, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return keys and values, [4, length, DIM], and the share of the step size for each row, [4].

    Rows: random pairs; the same with a tenth of the step; one pair without end; keys that are nearly one, with random
    values. Keys and values have norm 1; for KL the values are probabilities.
    """
    generator = torch.Generator().manual_seed(0)
    keys, values = torch.randn(2, ROWS, length, DIM, generator=generator)
    keys[1], values[1] = keys[0], values[0]
    keys[2], values[2] = keys[2, :1], values[2, :1]
    keys[3] = keys[3, :1] + 0.1 * keys[3]
    values = (2 * values).softmax(-1) if objective == "KL" else F.normalize(values, dim=-1)
    return F.normalize(keys, dim=-1), values, torch.tensor([1.0, 0.1, 1.0, 1.0])


def measure(batch: list[Combination]) -> list[Row]:
    """Write the streams; report of each row whether all is finite, and its largest answer to a unit query."""
    torch.manual_seed(0)
    first, side = batch[0], Beside()
    memory = first.build() if len(batch) == 1 else build(first, side, side)
    keys, values, share = (torch.cat(x) for x in zip(*(stream(one.objective, WRITES) for one in batch), strict=True))
    queries = F.normalize(torch.randn(len(keys), 64, DIM), dim=-1)
    state, answers = memory.init(len(keys)), []
    with torch.no_grad():
        for start in range(0, WRITES, EVERY):
            now = slice(start, start + EVERY)
            eta = None if memory.eta is None else (memory.eta * share).unsqueeze(1).expand(-1, EVERY)
            state, _ = memory.write(state, keys[:, now], values[:, now], eta=eta)
            answers.append(memory.read(state, queries).norm(dim=-1).amax(1))
    tensors = [x.reshape(len(x), -1) for x in (*state.memory.values(), *state.context.values())]
    finite = torch.stack([torch.isfinite(x).all(1) for x in tensors]).all(0)
    rows = zip(torch.stack(answers, 1).split(ROWS), finite.split(ROWS), strict=True)
    return [
        {"combination": asdict(one), "answers": answer.tolist(), "finite": whole.tolist()}
        for one, (answer, whole) in zip(batch, rows, strict=True)
    ]


def file_of(batch: list[Combination]) -> Path:
    """Return where a batch is kept."""
    first = batch[0]
    words = [first.architecture, first.rule, first.window]
    words += [first.objective, first.retention] if len(batch) == 1 else []
    return FOLDER / f"{' '.join(map(str, words)).replace(' ', '-')}.json"


def kept(batch: list[Combination]) -> list[Row]:
    """Return a batch from its file, or measure it."""
    file = file_of(batch)
    if not file.exists():
        torch.set_num_threads(1)
        FOLDER.mkdir(parents=True, exist_ok=True)
        atomic_write(file, json.dumps(measure(batch)).encode(), private=False)
    found: list[Row] = json.loads(file.read_text())
    return found


def tables() -> str:
    """Say of every combination whether it works, and if not why, from `refusal` alone."""
    reasons: dict[str, int] = {}
    lines = []
    for architecture in ARCHITECTURES:
        cells: dict[tuple[str, str], dict[str, list[str]]] = {}
        for objective, retention in itertools.product(OBJECTIVES, RETENTIONS):
            works, fails = [], {}
            for rule in RULES:
                reason = Combination(architecture, objective, retention, rule).refusal()
                if reason is None:
                    works.append(rule)
                else:
                    fails.setdefault(reasons.setdefault(reason, len(reasons) + 1), []).append(rule)
            why = "; ".join(f"({number}) {names(rules)}" for number, rules in sorted(fails.items()))
            cells.setdefault((names(works), why), {}).setdefault(objective, []).append(retention)
        head = ["| objective | retention | works with | not with |", "|---|---|---|---|"]
        lines += [f"## {architecture[0].upper()}{architecture[1:]}", "", *head]
        for (works, why), where in cells.items():
            # objectives that allow the same retentions share a line
            for held in dict.fromkeys(map(tuple, where.values())):
                same = [objective for objective, own in where.items() if tuple(own) == held]
                lines.append(f"| {', '.join(same)} | {', '.join(held)} | {works} | {why} |")
        lines.append("")
    lines += ["## Why not", "", *(f"{number}. {reason}" for reason, number in reasons.items())]
    return "\n".join(lines)


def names(rules_: list[str]) -> str:
    """Write a list of rules, all of them but the exact fit as "every rule"."""
    if len(rules_) >= len(RULES) - 1 and set(RULES) - set(rules_) <= {"exact"}:
        return ", ".join(["every rule", *(rule for rule in rules_ if rule == "exact")])
    return ", ".join(f"`{rule}`" if rule != "exact" else rule for rule in rules_) or "nothing"


def measurements(rows: list[Row]) -> str:
    """Write the largest answers after all writes, and the rule that gave each."""
    shown = [name for name in ARCHITECTURES if name != "non-parametric"]
    lines = [f"| objective | retention | {' | '.join(shown)} |", "|---" * (2 + len(shown)) + "|"]
    ends: dict[tuple[str, ...], list[tuple[float, str]]] = {}
    for row in rows:
        one = row["combination"]
        place = one["architecture"], one["objective"], one["retention"]
        ends.setdefault(place, []).append((max(answers[-1] for answers in row["answers"]), one["rule"]))
    for objective, retention in itertools.product(OBJECTIVES, RETENTIONS):
        found = [ends.get((name, objective, retention)) for name in shown]
        cells = " | ".join("{:.2g} ({})".format(*max(own)) if own else "not measured" for own in found)
        lines.append(f"| {objective} | {retention} | {cells} |")
    allowed = sum(one.refusal() is None for one in combinations())
    finite = sum(all(row["finite"]) for row in rows)
    counts = f"Of {allowed} allowed combinations, {len(rows)} were measured and {finite} of those stay finite."
    return "\n".join([counts, "", *lines])


def fill(page: str, name: str, content: str) -> str:
    """Put content between the two marks of a page."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n{content}\n{end}{rest.partition(end)[2]}"


def main() -> None:
    """Measure what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1, help="how many batches to measure at a time")
    parser.add_argument("--page", action="store_true", help="measure nothing more")
    options = parser.parse_args()
    if not options.page:
        measure_all(options.workers)
    rows = [row for batch in batches() if (file := file_of(batch)).exists() for row in json.loads(file.read_text())]
    rows = [row for row in rows if Combination(**row["combination"]).refusal() is None]
    page = fill(PAGE.read_text(encoding="utf-8"), "tables", tables())
    if rows:
        page = fill(page, "measured", measurements(rows))
    atomic_write(PAGE, page.encode(), private=False)
    print(f"wrote {PAGE}")


def measure_all(workers: int) -> None:
    """Measure what is missing, and say how each combination ended."""
    everything = batches()
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for count, rows in enumerate(pool.imap(kept, everything), 1):
            print(f"{count}/{len(everything)}", flush=True)
            for row in rows:
                name = " x ".join(map(str, row["combination"].values()))
                ends = " ".join(f"{answers[-1]:.3g}" for answers in row["answers"])
                print(f"  {name}: {'finite' if all(row['finite']) else 'NOT FINITE'}; largest answers {ends}")


if __name__ == "__main__":
    main()
