"""Rows of several seeds as a table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def markdown(rows: Mapping[str, Sequence[Row]], floors: Sequence[Row]) -> str:
    """Write one line for each strategy, accuracies in percent as mean ± standard deviation over seeds.

    Args:
        rows: strategy -> what `protocol.measure` returned for each seed.
        floors: what `protocol.floor` returned for the same seeds; excess is forgetting less the floor's.
    """
    heads = ["strategy", "final", "macro", "average", "forgetting", "excess", "plasticity"]
    heads += ["first task kept", "state", "learning", "needs"]
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
            f"{statistics.mean(row['seconds'][-1] for row in found):.1f} s",
            needs(found[0]),
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    if floors:
        low = [percent([row[key] for row in floors]) for key in ("final", "final_macro", "average_incremental")]
        low += [percent([row["forgetting"] for row in floors]), "0", percent([row["plasticity"] for row in floors])]
        low += [percent([row["task_a"][-1] for row in floors]), "", "", "all records"]
        lines.append("| *joint probe, trained anew each time* | " + " | ".join(low) + " |")
    return "\n".join(lines)


def needs(row: Row) -> str:
    """Write what a strategy asks for beyond the stream: kept records, boundaries of tasks, the domain of each question.

    Example:
        >>> needs({"stores_records": True, "needs_boundaries": True, "needs_oracle": False})
        'records, boundaries'
    """
    asked = {
        "records": row["stores_records"],
        "boundaries": row["needs_boundaries"],
        "each test record's domain": row["needs_oracle"],
    }
    return ", ".join(what for what, asks in asked.items() if asks) or "nothing"


def percent(values: Sequence[float]) -> str:
    """Write the mean of shares in percent, and their standard deviation where there are several."""
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"


def size(count: int) -> str:
    """Write a number of bytes."""
    return f"{count / 2**20:.1f} MB" if count >= 2**20 else f"{count / 2**10:,.0f} KB"
