"""The tables of what optimizers keep, from measured rows."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]


def stamp(rows: Sequence[Row], command: str) -> str:
    """Say how, where and when rows were measured."""
    commits = ", ".join(dict.fromkeys(row["where"]["commit"] for row in rows))
    at = rows[-1]["where"]
    return f"`{command}`, commit {commits}, {at['machine']}, torch {at['torch']}, {at['date']}."


def spread(values: Sequence[float], digits: int = 2, scale: float = 1.0) -> str:
    """Write a mean and the standard deviation over seeds."""
    scaled = [scale * value for value in values]
    return f"{statistics.mean(scaled):.{digits}f} ± {statistics.stdev(scaled):.{digits}f}"


def pair(runs: Sequence[tuple[float, float]], digits: int = 1) -> str:
    """Write the accuracies on the newest and the old tasks in percent."""
    newest, old = ([100 * run[part] for run in runs] for part in (0, 1))
    return f"{statistics.mean(newest):.{digits}f} / {statistics.mean(old):.{digits}f}"


def digits(worlds: dict[str, dict[str, Row]]) -> str:
    """Every rate on permuted digits, then the chosen rate in every world."""
    permuted = worlds["permuted"]
    lines = ["| permuted digits | rate: newest / old | chosen rate: newest | old |", "|---|---|---|---|"]
    for name, row in permuted.items():
        every = ", ".join(f"{lr}: {pair(runs)}" for lr, runs in row["runs"].items())
        chosen = row["runs"][row["chosen"]]
        newest, old = (spread([run[part] for run in chosen], 1, 100) for part in (0, 1))
        lines.append(f"| {name} | {every} | {newest} | {old} |")
    others = [world for world in worlds if world != "permuted"]
    lines += ["", f"| newest / old | {' | '.join(others)} |", "|---" * (len(others) + 1) + "|"]
    for name in permuted:
        rows = [worlds[world].get(name) for world in others]
        cells = [pair(row["runs"][row["chosen"]]) if row else "" for row in rows]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    count = len(next(iter(permuted["OWM"]["runs"].values())))
    used = [row for rows in worlds.values() for row in rows.values()]
    words = f"Accuracy in percent, mean of {count} seeds; ± is over seeds."
    return "\n".join([*lines, "", f"{words} {stamp(used, 'python benchmarks/protect.py')}"])


def text(rows: dict[str, Row]) -> str:
    """Bits per byte on the newest and the old domains after the last."""
    names = list(next(iter(rows.values()))["runs"][0]["after"][0])
    heads = [f"{name} when it was new" for name in names[:-1]] + [f"{name}, the newest" for name in names[-1:]]
    lines = [
        f"| | {' | '.join(heads)} | {' | '.join(f'{name} at the end' for name in names[:-1])} | mean of the old "
        "| every rate on validation: newest / mean of the old | optimizer, bytes per parameter |",
        "|---" * (2 * len(names) + 2) + "|",
    ]
    for method, row in rows.items():
        runs = row["runs"]
        new = [spread([run["after"][n][name] for run in runs]) for n, name in enumerate(names)]
        old = [spread([run["after"][-1][name] for run in runs]) for name in names[:-1]]
        mean = spread([statistics.mean(run["after"][-1][name] for name in names[:-1]) for run in runs])
        tried = ", ".join(
            f"{setting}: {run['after'][-1][names[-1]]:.2f} / "
            f"{statistics.mean(run['after'][-1][name] for name in names[:-1]):.2f}"
            for setting, run in row["validation"].items()
        )
        size = runs[0]["optimizer_bytes"] / runs[0]["parameters"]
        lines.append(f"| {method} | {' | '.join(new)} | {' | '.join(old)} | {mean} | {tried} | {size:.1f} |")
    used, count = list(rows.values()), len(next(iter(rows.values()))["runs"])
    words = (
        f"Bits per byte on held-out ends of the texts, mean of {count} seeds; ± is over seeds. "
        f"{stamp(used, 'python benchmarks/protect.py --data FOLDER')}"
    )
    return "\n".join([*lines, "", words])


def cost(row: Row) -> str:
    """Steps and training steps as ratios to AdamW, and bytes per parameter."""
    lines = ["| | optimizer step, x AdamW | training step, x AdamW | bytes per parameter |", "|---|---|---|---|"]
    base = row["AdamW"]
    for name, one in row.items():
        if name != "where":
            ratios = f"{one['step'] / base['step']:.2f} | {one['whole'] / base['whole']:.2f}"
            lines.append(f"| {name} | {ratios} | {one['bytes']:.1f} |")
    words = "CPU time of the byte model of the table above, 8 windows of 128 bytes; the least of 6 interleaved rounds."
    return "\n".join([*lines, "", f"{words} {stamp([row], 'python benchmarks/protect.py --only cost')}"])
