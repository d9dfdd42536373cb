"""The tables of the optimizers, from measured rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from tables import stamp

Row = dict[str, Any]
WD = ("adamw", "adamw-wd0.3", "adamw-wd1", "adamw-wd3")


def drawn(heads: Sequence[str], lines: Sequence[Sequence[str]], facts: Sequence[str]) -> str:
    """Write a table of Markdown and the sentences under it."""
    body = [heads, ["---"] * len(heads), *lines]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in body), "", " ".join(facts)])


def spread(values: Sequence[float], digits: int = 3, factor: float = 1.0) -> str:
    """Write a mean and the standard deviation over seeds."""
    mean, sd = statistics.fmean(values), statistics.stdev(values)
    return f"{factor * mean:.{digits}f} ± {factor * sd:.{digits}f}"


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return a mean and half of its 95 % interval, by Student's t."""
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values), half


def losses(line: Row) -> list[float]:
    """Return the test loss of every seed."""
    return [run["loss"] for run in line["runs"]]


def steps(cell: Row) -> str:
    """Write the median of the steps, and the share of the starts where not all were solved."""
    share = "" if cell["solved"] == 1 else f" ({100 * cell['solved']:.0f} %)"
    return ("-" if cell["median"] is None else f"{cell['median']:.0f}") + share


def valleys(row: Row) -> str:
    """Median steps into the valley's minimum, by cell and rule."""
    rules = row["rules"]
    cells = list(next(iter(rules.values())))
    lines, solvable, won, halved = [], 0, 0, 0
    for cell in cells:
        shape, _, numbers = cell.partition(" ")
        found = {name: rules[name][cell] for name in rules}
        lines.append([shape, numbers.strip("()"), *(steps(found[name]) for name in rules)])
        ema = min(found[name]["median"] or math.inf for name in rules if name.startswith("EMA"))
        gated = found["delta, gated .99"]["median"] or math.inf
        solvable += ema < math.inf
        won += gated <= ema < math.inf
        halved += gated <= ema / 2 < math.inf
    diverged = sum(rules["delta, gated .99"][cell]["diverged"] > 0 for cell in cells)
    facts = (
        f"Median steps to a height below .001, in brackets the share of starts that came there where not all did; - is "
        f"less than half. {row['starts'][1]} starts at radius 3, at most {row['steps']:,} steps, float64; one of "
        f"{row['rates']} rates chosen on {row['starts'][0]} other starts for every rule and cell.",
        f"An EMA solves {solvable} of the {len(cells)} cells; the gated rule takes no more steps than the better EMA "
        f"in {won} of these, at most half of them in {halved}. It diverged from some start in {diverged} cells.",
        stamp(row, "python benchmarks/optimizers.py --only toys"),
    )
    return drawn(["valley", "k, alpha, omega", *rules], lines, facts)


def minima(row: Row) -> str:
    """Who ends in the deepest of many minima."""
    lines = [
        [name, f"{100 * found['share']:.1f} %", f"{found['rate']:.2g}", f"{100 * max(found['search']):.1f} %"]
        for name, found in row["rules"].items()
    ]
    facts = (
        f"{row['starts']} starts drawn evenly from the square of side 10.24, {row['steps']:,} steps, a rate that falls "
        f"linearly to zero; its peak is the best of {row['rates']} on 128 other starts. The basin takes 1 % of the "
        "square.",
        stamp(row, "python benchmarks/optimizers.py --only toys"),
    )
    return drawn(["rule", "ends in the deepest basin", "rate", "on the starts of the search"], lines, facts)


def momenta(row: Row) -> str:
    """What momenta of several lengths hold of the past, and what they forget."""
    heads = ["beta", "half of it", "99 %", "older than 12", "older than 100"]
    first = next(iter(row["betas"].values()))
    heads += [f"{a} degrees, {n} steps" for a, n in (key.split() for key in first["cells"])]
    lines = []
    for beta, found in row["betas"].items():
        past = [f"{100 * share:.2g} %" for share in found["past"].values()]
        cells = [f"{c['newest']:.3f} / {c['old']:.3f} ({c['eta']:.2g})" for c in found["cells"].values()]
        lines.append([beta, *(str(n) for n in found["carried"].values()), *past, *cells])
    facts = (
        "How many of the newest gradients make up half and 99 % of the momentum, and the share of it that is older "
        "than 12 and 100 steps, after eight tasks of that length. Then newest / old (rate) as in the table above, for "
        "tasks of so many steps: the share of |y|^2 that is missing. "
        f"Means of {row['draws']} draws; {row['grid']} rates tried on other draws.",
        stamp(row, "python benchmarks/optimizers.py --only toys"),
    )
    return drawn(heads, lines, facts)


def search(found: dict[str, Row], command: str) -> str:
    """The loss of every rate that was tried."""
    lines = []
    for line in found.values():
        tried = sorted(line["search"], key=lambda one: one["lr"])
        shown = ", ".join(f"{one['lr']:g}: {one['loss']:.3f}" for one in tried)
        lines.append([line["title"], shown, f"{line['lr']:g}"])
    facts = (
        "One seed that no table has. The same number of rates for each, a factor of 2 apart, and one more beyond the "
        "end of them where the best was the last.",
        stamp(next(iter(found.values()))["search"][-1], command),
    )
    return drawn(["method", "rate: loss on a part of the training data", "taken"], lines, facts)


def vision(found: dict[str, Row]) -> str:
    """Accuracy and loss on digits."""
    base = statistics.fmean(run["curve"][-1][1] for run in found["adamw"]["runs"])
    lines = []
    for line in found.values():
        runs = line["runs"]
        at = {step: [point[2] for run in runs for point in run["curve"] if point[0] == step] for step in (60, 100, 140)}
        early = " / ".join(f"{statistics.fmean(values):.2f}" for values in at.values())
        cost = statistics.fmean(run["curve"][-1][1] for run in runs) / base
        accuracy = spread([run["accuracy"] for run in runs], 1, 100)
        train = statistics.fmean(run["train"] for run in runs)
        row = [line["title"], f"{line['lr']:g}", accuracy, spread(losses(line)), f"{train:.3f}", early, f"{cost:.2f}"]
        lines.append(row)
    heads = ["method", "rate", "accuracy, %", "test loss", "training loss", "test loss at 60 / 100 / 140", "x CPU time"]
    decay = min(WD, key=lambda key: next(s["loss"] for s in _by_loss(found[key])))
    facts = [
        f"Means and standard deviations over {len(found['adamw']['runs'])} seeds, of the start and the order; the 359 "
        "test images are the same. CPU time of a whole step, as a ratio to AdamW's: on a shared machine, and of 64 "
        "images of 8 x 8; RESULTS has a table of its own for speed.",
    ]
    lowest = min(WD, key=lambda key: statistics.fmean(losses(found[key])))
    facts.append(
        f"DGD's test loss as a ratio to AdamW's, seed by seed: with the decay that the search chose "
        f"({found[decay]['title']}) {_ratios(found, decay)}; with the one that is best in this table "
        f"({found[lowest]['title']}) {_ratios(found, lowest)}."
    )
    facts.append(stamp(found["m3"]["runs"][-1], "python benchmarks/optimizers.py --only vit"))
    return drawn(heads, lines, facts)


def _ratios(found: dict[str, Row], key: str) -> str:
    """Write DGD's loss as a ratio to that of an AdamW, by seed."""
    return ", ".join(f"{a / b:.2f}" for a, b in zip(losses(found["dgd_adamw"]), losses(found[key]), strict=True))


def _by_loss(line: Row) -> list[Row]:
    return sorted(line["search"], key=lambda one: one["loss"])


def noise(found: dict[str, dict[str, list[Row]]]) -> str:
    """Accuracy and loss on clean digits after training with wrong labels."""
    names = {"adamw": "AdamW", "dgd_adamw": "DGD around AdamW, rho 3", "muon": "Muon", "m3": "M3, alpha .3"}
    shares = list(next(iter(found.values())))
    lines = []
    for key, by_share in found.items():
        cells = []
        for share in shares:
            runs = by_share[share]
            best = statistics.fmean(max(point[3] for point in run["curve"]) for run in runs)
            cells += [
                spread([run["accuracy"] for run in runs], 1, 100),
                f"{100 * best:.1f}",
                spread([run["loss"] for run in runs]),
            ]
        lines.append([names[key], *cells])
    heads = ["method"]
    for share in shares:
        heads += [f"{100 * float(share):.0f} % wrong: accuracy", "highest on the way", "test loss"]
    last = next(iter(found.values()))[shares[-1]][-1]
    facts = (
        "As above, 200 steps and the same rates, with so many training labels replaced by another class; the test "
        "labels are right. The highest accuracy on the way was read off the test images and is no result of a method.",
        stamp(last, "python benchmarks/optimizers.py --only noise"),
    )
    return drawn(heads, lines, facts)


def language(found: dict[str, Row]) -> str:
    """Nats per byte on a text."""
    base = losses(found["adamw"])
    cpu = statistics.fmean(run["cpu"] for run in found["adamw"]["runs"])
    lines = []
    for line in found.values():
        cost = statistics.fmean(run["cpu"] for run in line["runs"]) / cpu
        row = [line["title"], f"{line['lr']:g}", spread(losses(line)), " ".join(f"{x:.3f}" for x in losses(line))]
        row += ["" if line is found["adamw"] else gap(losses(line), base), f"{cost:.2f}"]
        short = line.get("in_time", [])
        row.append(f"{gap([run['loss'] for run in short], base)} ({short[0]['steps']})" if short else "")
        lines.append(row)
    heads = [
        "method",
        "rate",
        "nats per byte",
        "each seed",
        "less AdamW",
        "x CPU time",
        "less AdamW in its time (steps)",
    ]
    muon = found["muon"]
    facts = ["Paired differences over the seeds, with the 95 % interval of their mean."]
    for key, line in found.items():
        if key.startswith("m3"):
            below = sum(own < other for own, other in zip(losses(line), losses(muon), strict=True))
            facts.append(
                f"{line['title']} less Muon: {gap(losses(line), losses(muon))}, "
                f"below in {below} of {len(line['runs'])} seeds."
            )
    facts += [
        "In AdamW's time: as many steps as fit into the CPU time of its 490, with a schedule of that length.",
        stamp(muon["runs"][-1], "python benchmarks/optimizers.py --data tinyshakespeare --only lm"),
    ]
    return drawn(heads, lines, facts)


def gap(own: Sequence[float], other: Sequence[float]) -> str:
    """Write the mean difference of pairs with the 95 % interval of it."""
    mean, half = interval([a - b for a, b in zip(own, other, strict=True)])
    return f"{mean:+.3f} ± {half:.3f}"


def _search_of(command: str) -> Callable[[dict[str, Row]], str]:
    return lambda found: search(found, command)


# what was measured -> mark on the page -> its table
TABLES: dict[str, dict[str, Callable[[Any], str]]] = {
    "valleys": {"optimizer-valleys": valleys},
    "many_minima": {"optimizer-minima": minima},
    "momentum_of_tasks": {"optimizer-momentum": momenta},
    "vision": {
        "optimizer-vit": vision,
        "optimizer-vit-search": _search_of("python benchmarks/optimizers.py --only vit"),
    },
    "noise": {"optimizer-noise": noise},
    "language": {
        "optimizer-lm": language,
        "optimizer-lm-search": _search_of("python benchmarks/optimizers.py --data tinyshakespeare --only lm"),
    },
}
