"""The tables of the small tasks, from measured rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from everlearn.evals.tasks import LAGS, LANGUAGES
from everlearn.recipes.small_tasks import PASSKEY_LENGTHS, SPANS

Row = dict[str, Any]
Measured = dict[str, dict[str, list[Row]]]  # task -> preset -> a row for each seed


def seeds(values: Sequence[float], digits: int = 2) -> str:
    """Write the value of every seed, sorted; one number where all round to the same."""
    shown = [f"{value:.{digits}f}" for value in sorted(values)]
    return shown[0] if len(set(shown)) == 1 else " ".join(shown)


def count(rows: Sequence[Row]) -> str:
    """Write how many seeds there are."""
    return str(len(rows))


def stamp(rows: Sequence[Row]) -> str:
    """Say how, where and when the rows of a table were measured."""
    commits = ", ".join(dict.fromkeys(row["where"]["commit"] for row in rows))
    at = rows[-1]["where"]
    return f"`python benchmarks/small_tasks.py`, commit {commits}, {at['machine']}, torch {at['torch']}, {at['date']}."


def table(heads: Sequence[str], lines: Sequence[Sequence[str]], words: str, rows: Sequence[Row]) -> str:
    """Write a table of Markdown and the sentence under it; nothing but a word where nothing was measured."""
    if not rows:
        return "Not measured yet."
    drawn = [heads, ["---"] * len(heads), *lines]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in drawn), "", f"{words} {stamp(rows)}"])


def languages(found: Measured) -> str:
    """Accuracy by position, and the share of strings without an error."""
    spans = [f"{first}-{last}" for first, last in SPANS]
    lines, used = [], []
    for which in LANGUAGES:
        for name, rows in found[which].items():
            parts = [seeds([row["by_position"][i] for row in rows]) for i in range(len(SPANS))]
            whole = seeds([row["whole"][-1] for row in rows])
            lines.append([which, name, *parts, whole, count(rows)])
            used += rows
        if found[which]:
            row = next(iter(found[which].values()))[0]
            lines.append([which, "*best constant answer*", *(f"{c:.2f}" for c in row["constant"]), "", ""])
    heads = ["language", "preset", *spans, f"whole strings of {SPANS[-1][1]}", "seeds"]
    words = "Share of right answers by position in strings of 160 symbols, a value for each seed; trained up to 40."
    return table(heads, lines, words, used)


def recall(found: Measured) -> str:
    """Accuracy of recall by lag."""
    heads = ["preset", "all", *(f"lag {a}" if a == b else f"{a}-{b}" if b < 100 else f"{a}+" for a, b in LAGS), "seeds"]
    lines = [
        [name, seeds([row["accuracy"] for row in rows], 3)]
        + [seeds([row["by_lag"][i] for row in rows], 3) for i in range(len(LAGS))]
        + [count(rows)]
        for name, rows in found["recall"].items()
    ]
    words = "Sixteen keys and sixteen values in 64 tokens, 220 steps, one layer; lag: tokens since the key stood last."
    return table(heads, lines, words, [row for rows in found["recall"].values() for row in rows])


def passkey(found: Measured) -> str:
    """Digit accuracy by length, and whole keys at the ends."""
    heads = ["preset", *(f"{n:,}" for n in PASSKEY_LENGTHS), "whole keys, 256", "8,192", "no needle", "seeds"]
    lines = [
        [name, *(seeds([row["digits"][i] for row in rows]) for i in range(len(PASSKEY_LENGTHS)))]
        + [seeds([row["keys"][i] for row in rows]) for i in (0, -1)]
        + [seeds([row["no_needle"] for row in rows]), count(rows)]
        for name, rows in found["passkey"].items()
    ]
    words = (
        "Share of right digits in rows of so many tokens, 32 rows each; trained on 32 growing to 256 tokens, "
        "1,000 steps, two layers."
    )
    return table(heads, lines, words, [row for rows in found["passkey"].values() for row in rows])


def surprise(found: Measured) -> str:
    """What a common and a rare sentence do: bits, memories, gradient, levels."""
    heads = ["preset", "sentence", "bits per byte", "mixers' memories move", "gradient", "the level moves", "seeds"]
    lines, used = [], []
    for name, rows in found["surprise"].items():
        used += rows
        for when in ("untrained", "trained"):
            for kind in ("common", "rare"):
                own = [row[when][kind] for row in rows]
                parts = [seeds([one[field] for one in own]) for field in ("bits", "memory", "surprise", "levels")]
                lines.append([name, f"{kind}, {when}", *parts, count(rows)])
    words = (
        "Means over four common and 36 rare sentences of the same lengths, read after twelve common ones; Frobenius "
        "norms, of the memories summed over the tokens, of the gradient before its clip."
    )
    return table(heads, lines, words, used)


def endless(kept: dict[str, Row]) -> str:
    """What the state holds and what a token costs along a million bytes."""
    heads = ["reader", "bytes read", "state, bytes", "largest number", "bits per byte", "x time per byte, first 10,000"]
    lines = []
    for way, row in kept.items():
        marks = row["result"]["marks"]
        for mark in marks:
            cost = mark["microseconds"] / marks[1]["microseconds"]
            assert mark["finite"]
            bits, largest = f"{mark['bits']:.3f}", f"{mark['largest']:.1f}"
            lines.append([way, f"{mark['tokens']:,}", f"{mark['state_bytes']:,}", largest, bits, f"{cost:.2f}"])
    words = "Bits per byte and time since the line before; every number of the state is finite at every mark."
    return table(heads, lines, words, list(kept.values()))


TABLES: dict[str, Callable[[Measured], str]] = {
    "small-languages": languages,
    "small-recall": recall,
    "small-passkey": passkey,
    "small-surprise": surprise,
}
