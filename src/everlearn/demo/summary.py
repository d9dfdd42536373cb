"""The demo's one table for a terminal."""

from __future__ import annotations

from rich.table import Table

from everlearn.demo.differences import Results, present
from everlearn.demo.labels import METHODS, READERS


def summary_table(results: Results) -> Table:
    """Return what was measured as one table; a scene that is missing leaves its section out.

    The four columns mean the same in every section: what, at first, at the end, and what else belongs to it.
    """
    table = Table(title="What it learned, and what it kept", title_justify="left", header_style="bold")
    table.add_column("")
    table.add_column("at first", justify="right")
    table.add_column("at the end", justify="right")
    table.add_column("and", justify="right")
    sections = (_week(results.get("digits") or {}), _reading(results.get("reading") or {}), _plug(results))
    for section in sections:
        for row in section:
            table.add_row(*row)
        if section:
            table.add_section()
    return table


Line = tuple[str, str, str, str]


def _week(digits: Results) -> list[Line]:
    lines = []
    for label in METHODS:
        if present(digits, f"{label.key}.final"):
            row = digits[label.key]
            days = row.get("after_day") or [None, None]
            stores = f", stores {row['stores_kb']:,.0f} KB" if present(row, "stores_kb") else ""
            all_ten = f"all ten {_share(row['final'], row.get('final_sd'))}{stores}"
            lines.append((label.name, _share(days[0]), _share(days[-1]), all_ten))
    if present(digits, "joint.final"):
        joint = digits["joint"]
        lines.append(("All data at once", "", "", f"all ten {_share(joint['final'], joint.get('final_sd'))}"))
    return _titled("Monday's digits: Monday evening, Friday evening", lines)


def _reading(reading: Results) -> list[Line]:
    lines = []
    for label in READERS:
        if present(reading, label.key):
            row, spread = reading[label.key], reading.get(f"{label.key}_sd") or [None]
            lines.append((label.name, f"{row[0]:.2f}", f"{row[-1]:.2f}", f"± {spread[-1]:.2f}" if spread[-1] else ""))
    if not lines or not present(reading, "buckets"):
        return []
    if present(reading, "kept.before") and present(reading, "kept.after"):
        before, after = reading["kept"]["before"], reading["kept"]["after"]
        lines.append(("Old text, before and after", f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}"))
    (a, b), (c, d) = reading["buckets"][0], reading["buckets"][-1]
    return _titled(f"Bits per byte: at bytes {a:,}-{b:,}, at {c:,}-{d:,}", lines)


def _plug(results: Results) -> list[Line]:
    lines = []
    for key, name in (("restart", "Killed and started again"), ("rollback", "Rolled back")):
        if present(results, f"{key}.identical"):
            lines.append((name, "", "identical" if results[key]["identical"] else "NOT identical", ""))
    return _titled("Pull the plug", lines)


def _titled(title: str, lines: list[Line]) -> list[Line]:
    return [(f"[bold]{title}[/bold]", "", "", ""), *lines] if lines else []


def _share(value: float | None, spread: float | None = None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f} %" if spread is None else f"{100 * value:.1f} ± {100 * spread:.1f} %"
