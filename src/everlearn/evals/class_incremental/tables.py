"""Rows of several seeds as a table, and as a picture of what is kept of the first task."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]


def markdown(rows: Mapping[str, Sequence[Row]], floors: Sequence[Row]) -> str:
    """Write one line for each strategy, accuracies in percent as mean ± standard deviation over seeds.

    Args:
        rows: strategy -> what `protocol.measure` returned for each seed.
        floors: what `protocol.floor` returned for the same seeds; excess is forgetting less the floor's.
    """
    heads = ["strategy", "final", "macro", "average", "forgetting", "excess", "plasticity"]
    heads += ["first task kept", "state", "records kept", "boundaries", "learning"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for name, found in rows.items():
        pairs = list(zip(found, floors, strict=False))
        cells = [
            *(percent([row[key] for row in found]) for key in ("final", "final_macro", "average_incremental")),
            percent([row["forgetting"] for row in found]),
            percent([row["forgetting"] - low["forgetting"] for row, low in pairs]) if pairs else "",
            percent([row["plasticity"] for row in found]),
            percent([row["task_a"][-1] for row in found]),
            size(max(row["bytes"][-1] for row in found)),
            "yes" if found[0]["stores_records"] else "no",
            "told" if found[0]["needs_boundaries"] else "no",
            f"{statistics.mean(row['seconds'][-1] for row in found):.1f} s",
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    if floors:
        low = [percent([row[key] for row in floors]) for key in ("final", "final_macro", "average_incremental")]
        low += [percent([row["forgetting"] for row in floors]), "0", percent([row["plasticity"] for row in floors])]
        low += [percent([row["task_a"][-1] for row in floors]), "", "", "", ""]
        lines.append("| *joint probe, trained anew each time* | " + " | ".join(low) + " |")
    return "\n".join(lines)


def percent(values: Sequence[float]) -> str:
    """Write the mean of shares in percent, and their standard deviation where there are several."""
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"


def size(count: int) -> str:
    """Write a number of bytes."""
    return f"{count / 2**20:.1f} MB" if count >= 2**20 else f"{count / 2**10:,.0f} KB"


def picture(rows: Mapping[str, Sequence[Row]], path: Path, title: str) -> None:
    """Draw the accuracy on the first task's classes after each experience, mean over seeds, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for name, found in rows.items():
        means = [100 * statistics.mean(values) for values in zip(*(row["task_a"] for row in found), strict=True)]
        axes.plot(range(1, len(means) + 1), means, marker="o", markersize=3, label=name)
    axes.set(title=title, xlabel="experiences learned", ylabel="accuracy on the first one's classes, %", ylim=(0, 101))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
