"""The tables of the stacking benchmark, from measured rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from stacking_checks import bits, checks, controlled
from stacking_texts import READ
from stacking_ways import RECIPES
from tables import over

Row = dict[str, Any]
NAMES = {
    "doyle": "Doyle",
    "war": "War and Peace, held-out end",
    "darwin": "Darwin",
    "shakespeare": "Shakespeare",
    "python": "Python",
}


def all_tables(rates: dict[str, Row], starts: dict[str, Row], runs: list[Row]) -> dict[str, str]:
    """Return every table by the name of its marks in RESULTS.md."""
    return {
        "stacking-about": about(runs),
        "stacking-reading": reading(runs),
        "stacking-control": control(runs),
        "stacking-stream": stream(runs),
        "stacking-facts": facts(runs, "facts"),
        "stacking-facts-long": facts(runs, "facts_long"),
        "stacking-changing": changing(runs),
        "stacking-rates": tuning(rates, starts),
        "stacking-cost": cost(runs),
        "stacking-required": required(runs),
    }


def about(runs: list[Row]) -> str:
    """Say what was measured, where and when."""
    at = runs[0]["texts"]["where"]
    return (
        f"{len(runs)} base model(s): {', '.join(run['name'].rpartition('/')[2] for run in runs)}; ± is over them. "
        f"`python benchmarks/stacking.py`, commit {at['commit']}, {at['machine']}, torch {at['torch']}, {at['date']}."
    )


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table of Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *lines))


def way_name(key: str) -> str:
    """Return the name of "way", or of "way x0.3" with its factor."""
    way, _, factor = key.partition(" x")
    return RECIPES[way].name + (f", rate x{factor}" if factor not in ("", "1") else "")


def kilobytes(count: float) -> str:
    """Write a number of bytes."""
    return f"{count / 1000:,.1f}"


def reading(runs: list[Row]) -> str:
    """Bits per byte over all positions of unseen documents."""
    lines = [
        [
            RECIPES[way].name,
            *(over([bits(run, way, domain) for run in runs]) for domain in READ),
            kilobytes(runs[0]["read"][way]["state_bytes"]),
        ]
        for way in runs[0]["read"]
    ]
    return table(["bits per byte", *(NAMES[domain] for domain in READ), "state, KB"], lines)


def control(runs: list[Row]) -> str:
    """Change on a text after reading a document of another domain, and of the same."""
    lines = []
    for way in runs[0]["control"]:
        for kind in ("other", "same"):
            cells = [over([controlled(run, way, kind, d) for run in runs], sign="+") for d in READ]
            lines.append([f"{RECIPES[way].name}, {kind} domain", *cells])
    return table(["change against reading nothing", *(NAMES[domain] for domain in READ)], lines)


def stream(runs: list[Row]) -> str:
    """Gains and damage over the stream."""
    lines = []
    for key in runs[0]["stream"]:
        rows = [run["stream"][key] for run in runs]
        learned, kept = (
            " / ".join(over([row[part][d] for row in rows], sign="+") for d in ("darwin", "shakespeare", "python"))
            for part in ("learned", "kept")
        )
        lines.append(
            [
                way_name(key),
                over([statistics.fmean(row["online"]) for row in rows]),
                learned,
                kept,
                over([max(row["general"]) for row in rows], sign="+"),
                over([row["general"][-1] for row in rows], sign="+"),
                over([row["other"]["doyle"] for row in rows], sign="+"),
                kilobytes(rows[0]["state_bytes"]),
            ]
        )
    kinds = "Darwin / Shakespeare / Python"
    heads = [
        "way",
        "online, bits per byte",
        f"learned: {kinds}",
        f"kept: {kinds}",
        "damage, worst",
        "damage, end",
        "Doyle, end",
        "state, KB",
    ]
    return table(heads, lines)


def facts(runs: list[Row], part: str) -> str:
    """Rank of the right name among 20, and what it cost elsewhere."""
    lines = []
    for key in runs[0][part]:
        rows = [run[part][key] for run in runs]
        way, _, times = key.partition(" x")
        lines.append(
            [
                RECIPES[way].name,
                times,
                over([statistics.fmean(row["rank"]) for row in rows], 1),
                over([statistics.fmean(row["first"]) for row in rows], 1),
                *(over([statistics.fmean(row["cost"][d]) for row in rows], sign="+") for d in ("doyle", "darwin")),
            ]
        )
    return table(["way", "exposures", "rank (chance 10.5)", "first, of 20", "cost, Doyle", "cost, Darwin"], lines)


def changing(runs: list[Row]) -> str:
    """Which name stands first after a fact has changed."""
    lines = []
    for way in runs[0]["changing"]:
        rows = [run["changing"][way] for run in runs]
        cells = [over([statistics.fmean(row[key]) for row in rows], 1) for key in ("rank_new", "rank_old")]
        share = over([100 * statistics.fmean(row["newer_first"]) for row in rows], 0)
        lines.append([RECIPES[way].name, share, *cells])
    return table(["way", "newer before older, % (chance 50)", "rank of the newer", "rank of the older"], lines)


def cost(runs: list[Row]) -> str:
    """Processor time of one reader, as ratios to reading with carried keys and values."""
    names = {
        "streaming": "reading, carried keys and values",
        "window": "reading, window 256 computed again for every 128 tokens",
        "last_down": "learning, last down-projection",
        "mlp": "learning, all MLPs",
        "mlp_again": "learning, all MLPs, window computed again",
    }
    rows = [run["cost"]["one reader"] for run in runs]
    lines = [[text, over([row[name] / row["streaming"] for row in rows], 2)] for name, text in names.items()]
    return table(["one reader, one thread", "x reading"], lines)


def tuning(rates: dict[str, Row], starts: dict[str, Row]) -> str:
    """The grid of every way, and of the training of every start, on validation pages."""
    lines = []
    named = [(RECIPES[way].name, "eta", row) for way, row in rates.items()]
    named += [(f"{RECIPES[f'mlp_{kind}'].name}: its training", "lr", row) for kind, row in starts.items()]
    for name, rate, row in named:
        tried = ", ".join(f"{t[rate]:.3g}: {100 * math.expm1(t['log_ratio']):+.1f}" for t in row["trials"])
        lines.append([name, f"{row[rate]:.3g}", tried])
    return table(["way", "chosen", "rate: change in bits per byte on validation pages, %"], lines)


def required(runs: list[Row]) -> str:
    """What was required beforehand, and in how many bases it was reached."""
    lines = [
        [c.name, c.claim, "<br>".join(dict.fromkeys(c.measured)), f"{c.held} of {len(runs)}", c.verdict]
        for c in checks(runs)
    ]
    return table(["", "required", "measured, per base", "held in", "verdict"], lines)
