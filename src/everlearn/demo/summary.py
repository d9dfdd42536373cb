"""The demo's one table for a terminal."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from everlearn.demo.differences import Results, present
from everlearn.demo.labels import METHODS, READERS
from everlearn.demo.phrases import positions

Line = tuple[str, str, str, str, str]


def summary_table(results: Results) -> Table:
    """Return what was measured as one table; a scene that is missing leaves its section out.

    Each section begins with a bold line that names its columns.
    """
    table = Table(box=SIMPLE, show_header=False, pad_edge=False)
    for justify in ("left", "right", "right", "right", "right"):
        table.add_column(justify=justify)
    for section in (_week(results), _reading(results), _plug(results)):
        for i, line in enumerate(section):
            table.add_row(*(Text(cell) for cell in line), style="bold" if i == 0 else None)
        table.add_section()
    return table


def _week(results: Results) -> list[Line]:
    digits = results.get("digits") or {}
    lines: list[Line] = [("Monday's digits", "Mon evening", "Fri evening", "all ten, Fri", "stores")]
    for label in METHODS:
        if present(digits, f"{label.key}.final"):
            row = digits[label.key]
            days = row.get("after_day") or [None]
            stores = f"{row['stores_kb']:,.0f} KB" if present(row, "stores_kb") else ""
            all_ten = _share(row["final"], row.get("final_sd"))
            lines.append((label.name, _share(days[0]), _share(days[-1]), all_ten, stores))
    if present(digits, "joint.final"):
        all_ten = _share(digits["joint"]["final"], digits["joint"].get("final_sd"))
        lines.append(("All data at once", "", "", all_ten, ""))
    return lines if len(lines) > 1 else []


def _reading(results: Results) -> list[Line]:
    reading = results.get("reading") or {}
    rows = [label for label in READERS if present(reading, label.key)]
    if not rows or not present(reading, "buckets"):
        return []
    first, last = (positions(*reading["buckets"][i]) for i in (0, -1))
    lines: list[Line] = [("Bits per byte at", first, last, "spread, last", "")]
    for label in rows:
        values, spread = reading[label.key], (reading.get(f"{label.key}_sd") or [None])[-1]
        lines.append((label.name, f"{values[0]:.2f}", f"{values[-1]:.2f}", f"± {spread:.2f}" if spread else "", ""))
    for key, name in (("kept", "Text it knew"), ("one_rate_kept", "the same, one rate")):
        if present(reading, f"{key}.before") and present(reading, f"{key}.after"):
            before, after = reading[key]["before"], reading[key]["after"]
            lines.append((name, f"before {before:.3f}", f"after {after:.3f}", f"{after - before:+.3f}", ""))
    return lines


def _plug(results: Results) -> list[Line]:
    lines: list[Line] = [("Pull the plug", "", "", "", "")]
    for key, name in (("restart", "Killed, restarted"), ("rollback", "Rolled back")):
        if present(results, f"{key}.identical"):
            lines.append((name, "", "identical" if results[key]["identical"] else "NOT identical", "", ""))
    return lines if len(lines) > 1 else []


def _share(value: float | None, spread: float | None = None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f} %" if spread is None else f"{100 * value:.1f} ± {100 * spread:.1f} %"
